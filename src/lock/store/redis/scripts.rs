//! What is decided in Redis, a Lua script each, about one key, and what is only looked at, about many.
//!
//! A script runs undisturbed, and at one moment of the server's clock. `KEYS[1]` is the lock, whose value is the holder's name, and
//! `KEYS[2]` its note: "id, when it was taken, when it ends, holder", in microseconds since the epoch. The note
//! tells nothing if the lock was deleted and set anew without it, as the original would: then its holder differs, or its end.

use redis::{RedisResult, Value, aio::MultiplexedConnection};

use super::{acquire, hand_over, observe, release, renew};

/// The common beginning of all scripts, and the one place that says what a lock's time is: Redis
/// deletes both keys at its end, and the lock is free if it does not stand.
///
/// If the value of a lock is not a string, the script reports the number 0 as its holder, which
/// equals no holder's name. The lock and the note of it expire at the same time, up to the duration
/// of a script (before Redis 7 the clock advances within a script) and up to the delay of a replica.
/// If the note agrees with the lock, the expiry in the note is the more exact one.
const PRELUDE: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function digits(number) return string.format('%.0f', number) end

local function standing(lock, note_of_it)
    local holder = redis.pcall('GET', lock)
    if not holder then return nil end
    if type(holder) ~= 'string' then holder = 0 end
    local left = redis.call('PTTL', lock) * 1000
    local note = redis.pcall('GET', note_of_it)
    if type(note) ~= 'string' then note = '' end
    local id, since, ends, noted = string.match(note, '^(%S+) (%d+) (%d+) (.*)$')
    if noted ~= holder or math.abs(redis.call('PTTL', note_of_it) * 1000 - left) > 50000 then
        return holder, '', '0', digits(left)
    end
    local exactly = ends - now
    if exactly > 0 and math.abs(exactly - left) < 2000 then left = exactly end
    return holder, id, since, digits(left)
end

local function last(id, since, holder, ttl)
    local ends = digits(now + ttl * 1000)
    redis.call('SET', KEYS[1], holder, 'PX', ttl)
    redis.call('SET', KEYS[2], table.concat({id, since, ends, holder}, ' '), 'PX', ttl)
    return ends
end

local refusal = redis.error_reply('ERR the counter of fencing tokens holds no number that could grow')
local function last_token(bucket)
    local token = tonumber(redis.call('HGET', KEYS[3], bucket) or '0') or 0
    return token < 2 ^ 53 and token
end
";

/// The names that the server gave to the scripts when it was told them.
#[derive(Clone)]
pub(super) struct Scripts {
    pub(super) acquire: String,
    pub(super) renew: String,
    pub(super) release: String,
    pub(super) hand_over: String,
    pub(super) observe: String,
}

/// A connection, as the server names it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) id: String,
    /// Another server may give the same id to another one's connection.
    pub(super) address: String,
}

impl Scripts {
    /// Tells the server the scripts: once for each connection, as it forgets them when it ends. Also
    /// asks for the name of the connection, which not every user may know.
    pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<(Self, Option<Client>)> {
        let scripts = [
            acquire::SCRIPT,
            renew::SCRIPT,
            release::SCRIPT,
            hand_over::SCRIPT,
            observe::SCRIPT,
        ];
        let mut pipeline = redis::Pipeline::with_capacity(scripts.len() + 1);
        for script in scripts {
            pipeline
                .cmd("SCRIPT")
                .arg("LOAD")
                .arg(format!("{PRELUDE}{script}"));
        }
        pipeline.cmd("CLIENT").arg("INFO");
        let mut names = connection
            .send_packed_commands(&pipeline, 0, scripts.len() + 1)
            .await?;
        let client = names.pop().as_ref().and_then(client);
        // One refusal says as much as five.
        let names = Value::Array(names).extract_error()?;
        let (acquire, renew, release, hand_over, observe) = redis::from_redis_value(names)?;
        let scripts = Self {
            acquire,
            renew,
            release,
            hand_over,
            observe,
        };
        Ok((scripts, client))
    }
}

/// Reads the answer to `CLIENT INFO`; None for a server that does not know it, or refuses it.
fn client(answer: &Value) -> Option<Client> {
    let about: String = redis::from_redis_value_ref(answer).ok()?;
    let field = |name: &str| {
        let mut fields = about.split_whitespace();
        fields.find_map(|field| field.strip_prefix(name).map(str::to_owned))
    };
    Some(Client {
        id: field("id=")?,
        address: field("addr=")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_its_id_and_address() {
        let about = "id=7 addr=127.0.0.1:50000 laddr=127.0.0.1:6379 fd=8 name=x";
        let known = client(&Value::BulkString(about.into())).unwrap();
        assert_eq!((&*known.id, &*known.address), ("7", "127.0.0.1:50000"));
        assert!(client(&Value::Okay).is_none());
    }
}
