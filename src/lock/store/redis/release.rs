//! Deleting a lock, and telling those who wait.

use redis::Cmd;

use super::keys;
use super::values::{Values, number, on_key};
use crate::lock::error::StoreError;
use crate::lock::operation::{Release, ReleaseTarget};

/// Deletes the lock if it is the acquisition, or the holder's, that is meant; answers with one more than
/// the number of those who have heard of it. Whoever may not publish
/// releases all the same: the others find out when they look.
pub(super) const SCRIPT: &str = "\
local holder, id = standing(KEYS[1], KEYS[2])
if not holder then return 0 end
if ARGV[2] == 'row' and id ~= ARGV[3] or ARGV[2] == 'holder' and holder ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
local heard = redis.pcall('PUBLISH', ARGV[1], '')
return 1 + (type(heard) == 'number' and heard or 0)
";

pub(super) fn command(script: &str, target: &ReleaseTarget) -> Cmd {
    let mut command = on_key(script, target.key(), None);
    command.arg(keys::channel_of(target.key()));
    match target {
        ReleaseTarget::Row { id, .. } => command.arg("row").arg(&**id),
        ReleaseTarget::Holder { holder, .. } => command.arg("holder").arg(&**holder),
        ReleaseTarget::Key { .. } => command.arg("any").arg(""),
    };
    command
}

pub(super) fn answer(release: Release, values: &mut Values<'_>) {
    let released = values.next().and_then(|value| {
        let heard = number(&[value], 0).ok_or_else(|| values.not_understood())?;
        let found = heard > 0;
        if found && matches!(release.target, ReleaseTarget::Row { .. }) {
            values.shared().released(release.target.key(), heard - 1);
        }
        if found || !values.tried_before() {
            return Ok(found);
        }
        let message = format!(
            "{}: no answer to the release, and the lock is gone",
            values.place()
        );
        Err(StoreError::unknown_outcome(message))
    });
    let _ = release.reply.send(released);
}
