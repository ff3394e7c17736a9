//! Giving a lock that is ours to another acquisition of this process.

use redis::{Cmd, Value};

use super::keys;
use super::values::{Values, is_nothing, milliseconds, on_key, time};
use crate::lock::operation::{HandOver, Won};

/// The token is given, too: the counter is brought up to it. The new one has the lock already if the
/// answer to an earlier try was lost, or if this one comes late: then it ends no sooner than it would
/// have.
pub(super) const SCRIPT: &str = "\
local holder, id, since, left = standing(KEYS[1], KEYS[2])
if id == ARGV[2] and tonumber(left) > ARGV[4] * 1000 then return {digits(now), digits(now + left)} end
if id ~= ARGV[1] and id ~= ARGV[2] then return 0 end
local drawn = last_token(ARGV[5])
if not drawn then return refusal end
redis.call('HSET', KEYS[3], ARGV[5], digits(math.max(drawn, tonumber(ARGV[6]))))
return {digits(now), last(ARGV[2], digits(now), ARGV[3], ARGV[4])}
";

pub(super) fn command(script: &str, hand_over: &HandOver) -> Cmd {
    let mut command = on_key(script, &hand_over.key, Some(keys::FENCES));
    command
        .arg(&*hand_over.from)
        .arg(&*hand_over.id)
        .arg(&*hand_over.holder)
        .arg(milliseconds(hand_over.ttl))
        .arg(keys::fence_bucket(&hand_over.key))
        .arg(hand_over.token);
    command
}

pub(super) fn answer(hand_over: HandOver, values: &mut Values<'_>) {
    let won = values.next().and_then(|value| {
        if is_nothing(&value) {
            return Ok(None);
        }
        let won = read(&value, hand_over.token);
        won.map(Some).ok_or_else(|| values.not_understood())
    });
    let _ = hand_over.reply.send(won);
}

fn read(value: &Value, token: i64) -> Option<Won> {
    let Value::Array(parts) = value else { return None };
    Some(Won {
        token,
        acquired_at: time(parts, 0)?,
        expires_at: time(parts, 1)?,
    })
}
