//! Moving the expiry of a lock that is still ours.

use redis::Cmd;

use super::values::{Values, is_nothing, milliseconds, on_key, time};
use crate::lock::operation::Renew;

pub(super) const SCRIPT: &str = "\
local holder, id, since = standing(KEYS[1], KEYS[2])
if id ~= ARGV[1] then return 0 end
return last(id, since, holder, ARGV[2])
";

pub(super) fn command(script: &str, renew: &Renew) -> Cmd {
    let mut command = on_key(script, &renew.key, None);
    command.arg(&*renew.id).arg(milliseconds(renew.ttl));
    command
}

pub(super) fn answer(renew: Renew, values: &mut Values<'_>) {
    let renewed = values.next().and_then(|value| {
        if is_nothing(&value) {
            return Ok(None);
        }
        let ends = time(&[value], 0).ok_or_else(|| values.not_understood())?;
        Ok(Some(ends))
    });
    let _ = renew.reply.send(renewed);
}
