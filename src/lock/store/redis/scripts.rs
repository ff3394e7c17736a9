//! What is decided in Redis, a Lua script each, about one key, and what is only looked at, about many.
//!
//! A script runs undisturbed, and at one moment of the server's clock. `KEYS[1]` is the lock, whose value is the holder's name, and
//! `KEYS[2]` its note: "id, when it was taken, when it ends, holder", in microseconds since the epoch. The note
//! tells nothing if the lock was deleted and set anew without it, as the original would: then its holder differs, or its end.

use std::sync::Arc;

use redis::{Cmd, RedisResult, Value, aio::MultiplexedConnection};

use super::keys;
use crate::lock::operation::{Claim, HandOver, ReleaseTarget, Renew};

/// So many keys the server looks at before it serves others.
pub(super) const MOST_OBSERVED: usize = 1000;

/// The common beginning of all scripts. If the value of a lock is not a string, the script reports
/// the number 0 as its holder, which equals no holder's name. The lock and the note of it expire at
/// the same time, up to the duration of a script (before Redis 7 the clock advances within a
/// script) and up to the delay of a replica. If the note agrees with the lock, the expiry in the
/// note is the more exact one.
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

local refusal = redis.error_reply('ERR the counter of fencing tokens holds no number that could grow')
local function last_token(bucket)
    local last = tonumber(redis.call('HGET', KEYS[3], bucket) or '0') or 0
    return last < 2 ^ 53 and last
end

local function take_note(id, since, holder, ttl)
    redis.call('SET', KEYS[2], table.concat({id, since, digits(now + ttl * 1000), holder}, ' '), 'PX', ttl)
end
";

/// Takes the lock if it is free (a lock of the same id is ours from an earlier try whose answer was lost). The token is drawn first:
/// if that fails, nothing has been taken. It leaves one out, with which the lock can be handed over without asking.
const ACQUIRE: &str = "\
local by, theirs, since, left = standing(KEYS[1], KEYS[2])
if by and theirs ~= ARGV[1] then return {0, digits(now), by, theirs, since, left} end
local last = last_token(ARGV[4])
if not last then return refusal end
local token = digits(math.max(last + 2, now))
redis.call('HSET', KEYS[3], ARGV[4], token)
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
take_note(ARGV[1], digits(now), ARGV[2], ARGV[3])
return {token, digits(now)}
";

/// Moves the expiry of a lock that is still ours.
const RENEW: &str = "\
local holder, id, since = standing(KEYS[1], KEYS[2])
if id ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
take_note(id, since, holder, ARGV[2])
return digits(now)
";

/// Gives a lock that is ours to another acquisition, with a token that is given, too: the counter is brought up to it. The new one has it
/// already if the answer to an earlier try was lost, or if this one comes late: then it ends no sooner than it would have.
const HAND_OVER: &str = "\
local holder, id, since, left = standing(KEYS[1], KEYS[2])
if id == ARGV[2] and tonumber(left) > ARGV[4] * 1000 then return digits(now) end
if id ~= ARGV[1] and id ~= ARGV[2] then return 0 end
local last = last_token(ARGV[5])
if not last then return refusal end
redis.call('HSET', KEYS[3], ARGV[5], digits(math.max(last, tonumber(ARGV[6]))))
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
take_note(ARGV[2], digits(now), ARGV[3], ARGV[4])
return digits(now)
";

/// Deletes the lock if it is the acquisition, or the holder's, that is meant, and tells those who wait. Whoever may not publish
/// releases all the same: the others find out when they look.
const RELEASE: &str = "\
local holder, id = standing(KEYS[1], KEYS[2])
if not holder then return 0 end
if ARGV[2] == 'row' and id ~= ARGV[3] or ARGV[2] == 'holder' and holder ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.pcall('PUBLISH', ARGV[1], '')
return 1
";

/// Looks at many locks, each followed by its note.
const OBSERVE: &str = "\
local found = {}
for number = 1, #KEYS, 2 do
    local by, theirs, since, left = standing(KEYS[number], KEYS[number + 1])
    found[#found + 1] = by and {1, digits(now), by, theirs, since, left} or 0
end
return found
";

/// The names that the server gave to the scripts when it was told them.
#[derive(Clone)]
pub(super) struct Scripts {
    acquire: String,
    renew: String,
    release: String,
    hand_over: String,
    observe: String,
}

impl Scripts {
    /// Tells the server the scripts: once for each connection, as it forgets them when it ends.
    pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let scripts = [ACQUIRE, RENEW, RELEASE, HAND_OVER, OBSERVE];
        let mut pipeline = redis::Pipeline::with_capacity(scripts.len());
        for script in scripts {
            pipeline
                .cmd("SCRIPT")
                .arg("LOAD")
                .arg(format!("{PRELUDE}{script}"));
        }
        let names = connection
            .send_packed_commands(&pipeline, 0, scripts.len())
            .await?;
        // One refusal says as much as five.
        let names = Value::Array(names).extract_error()?;
        let (acquire, renew, release, hand_over, observe) = redis::from_redis_value(names)?;
        Ok(Self {
            acquire,
            renew,
            release,
            hand_over,
            observe,
        })
    }

    pub(super) fn acquire(&self, claim: &Claim) -> Cmd {
        let mut command = on_key(&self.acquire, &claim.key, Some(keys::FENCES));
        command
            .arg(&*claim.id)
            .arg(&*claim.holder)
            .arg(milliseconds(claim.ttl))
            .arg(keys::fence_bucket(&claim.key));
        command
    }

    pub(super) fn renew(&self, renew: &Renew) -> Cmd {
        let mut command = on_key(&self.renew, &renew.key, None);
        command.arg(&*renew.id).arg(milliseconds(renew.ttl));
        command
    }

    pub(super) fn hand_over(&self, hand_over: &HandOver) -> Cmd {
        let mut command = on_key(&self.hand_over, &hand_over.key, Some(keys::FENCES));
        command
            .arg(&*hand_over.from)
            .arg(&*hand_over.id)
            .arg(&*hand_over.holder)
            .arg(milliseconds(hand_over.ttl))
            .arg(keys::fence_bucket(&hand_over.key))
            .arg(hand_over.token);
        command
    }

    pub(super) fn release(&self, target: &ReleaseTarget) -> Cmd {
        let mut command = on_key(&self.release, target.key(), None);
        command.arg(keys::channel_of(target.key()));
        match target {
            ReleaseTarget::Row { id, .. } => command.arg("row").arg(&**id),
            ReleaseTarget::Holder { holder, .. } => command.arg("holder").arg(&**holder),
            ReleaseTarget::Key { .. } => command.arg("any").arg(""),
        };
        command
    }

    /// Looks at [`MOST_OBSERVED`] keys at most; [`read_each`] reads the answer.
    pub(super) fn observe(&self, keys: &[Arc<str>]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.observe).arg(2 * keys.len());
        for key in keys {
            command.arg(keys::lock(key)).arg(keys::note(key));
        }
        command
    }
}

fn on_key(script: &str, key: &str, third: Option<&str>) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command
        .arg(script)
        .arg(2 + usize::from(third.is_some()))
        .arg(keys::lock(key))
        .arg(keys::note(key))
        .arg(third);
    command
}

/// Rounded up: a holder may believe in its lock for the whole of its time.
pub(super) fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What a script that looked at a lock tells of it.
pub(super) struct Standing {
    pub(super) now: f64,
    /// None if the value is not a string, so that the key is no lock.
    pub(super) holder: Option<String>,
    pub(super) id: String,
    /// Zero if it is unknown.
    pub(super) since: f64,
    /// Microseconds until the expiry; negative if the key never expires. The number may be too
    /// large for an integer of 64 bits.
    pub(super) left: f64,
}

/// What a script answered.
pub(super) enum Answer {
    /// Nothing was done, nothing found; or for a release, there was no such lock.
    Nothing,
    /// Whatever else was a number.
    Number(i64),
    /// The token, and the server's clock in seconds.
    Taken(i64, f64),
    /// Someone has the lock.
    Held(Standing),
}

/// Reads an answer; None for one that no script of these gives.
pub(super) fn read(value: &Value) -> Option<Answer> {
    let Value::Array(parts) = value else {
        let number: i64 = redis::from_redis_value_ref(value).ok()?;
        return Some(match number {
            0 => Answer::Nothing,
            number => Answer::Number(number),
        });
    };
    let number = |index: usize| redis::from_redis_value_ref::<i64>(parts.get(index)?).ok();
    let text = |index: usize| match parts.get(index)? {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    if parts.len() == 2 {
        return Some(Answer::Taken(number(0)?, seconds(number(1)?)));
    }
    Some(Answer::Held(Standing {
        now: seconds(number(1)?),
        holder: text(2),
        id: text(3)?,
        // A note that somebody wrote by hand may contain any number.
        since: number(4).map_or(0.0, seconds),
        left: text(5)?.parse().ok()?,
    }))
}

/// Reads what was answered about each of so many keys.
pub(super) fn read_each(value: &Value, keys: usize) -> Option<Vec<Answer>> {
    let Value::Array(parts) = value else { return None };
    let answers: Vec<Answer> = parts.iter().map(read).collect::<Option<_>>()?;
    (answers.len() == keys).then_some(answers)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds since the epoch fit for some 250 years"
)]
pub(super) fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}
