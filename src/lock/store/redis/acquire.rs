//! Taking a lock that is free.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::keys;
use super::observe::{Standing, read_standing};
use super::values::{Values, milliseconds, number, on_key, time};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Claim, Won};

/// A lock of the same id is ours from an earlier try whose answer was lost. The token is drawn first:
/// if that fails, nothing has been taken. It leaves one out, with which the lock can be handed over without asking.
/// A try that comes late ends the lease no sooner: its holder may have renewed it for longer meanwhile.
pub(super) const SCRIPT: &str = "\
local by, theirs, since, left = standing(KEYS[1], KEYS[2])
if by and theirs ~= ARGV[1] then return {0, digits(now), by, theirs, since, left} end
local drawn = last_token(ARGV[4])
if not drawn then return refusal end
local token = digits(math.max(drawn + 2, now))
redis.call('HSET', KEYS[3], ARGV[4], token)
local ttl = ARGV[3]
if theirs == ARGV[1] then ttl = digits(math.max(ttl, math.ceil(left / 1000))) end
return {token, digits(now), last(ARGV[1], digits(now), ARGV[2], ttl)}
";

pub(super) fn command(script: &str, claim: &Claim) -> Cmd {
    let mut command = on_key(script, &claim.key, Some(keys::FENCES));
    command
        .arg(&*claim.id)
        .arg(&*claim.holder)
        .arg(milliseconds(claim.ttl))
        .arg(keys::fence_bucket(&claim.key));
    command
}

pub(super) fn answer(acquire: Acquire, values: &mut Values<'_>) {
    let value = match values.next() {
        Ok(value) => value,
        Err(error) => return acquire.failed(error),
    };
    match read(&value, &acquire.claim.key) {
        Some(Ok(won)) => acquire.won(won),
        Some(Err(Standing { row, is_string: true })) => {
            values.shared().taken_by_others(&acquire.claim.key);
            acquire.held(Some(row));
        }
        Some(Err(_)) => {
            let key = keys::lock(&acquire.claim.key);
            let what = format!("the value of {key} is not a string");
            acquire.failed(StoreError::unreadable_row(&key, &what).at(values.place()));
        }
        None => acquire.failed(values.not_understood()),
    }
}

/// The lock that was taken, or the one that stands in the way.
fn read(value: &Value, key: &Arc<str>) -> Option<Result<Won, Standing>> {
    let Value::Array(parts) = value else { return None };
    if parts.len() != 3 {
        return read_standing(value, key).map(Err);
    }
    Some(Ok(Won {
        token: number(parts, 0)?,
        acquired_at: time(parts, 1)?,
        expires_at: time(parts, 2)?,
    }))
}
