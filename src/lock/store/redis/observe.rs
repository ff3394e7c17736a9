//! Looking at locks.

use std::sync::Arc;

use redis::{Cmd, Pipeline, Value};

use super::values::{Values, is_nothing, number, on_keys, seconds, time};
use crate::lock::error::StoreError;
use crate::lock::operation::{LockRow, Reply};
use crate::lock::store::is_a_date;

/// So many keys the server looks at before it serves others.
pub(super) const MOST_OBSERVED: usize = 1000;

/// Looks at many locks, each followed by its note.
pub(super) const SCRIPT: &str = "\
local found = {}
for number = 1, #KEYS, 2 do
    local by, theirs, since, left = standing(KEYS[number], KEYS[number + 1])
    found[#found + 1] = by and {1, digits(now), by, theirs, since, left} or 0
end
return found
";

/// Looks at [`MOST_OBSERVED`] keys at most; [`read_rows`] reads the answer.
pub(super) fn command(script: &str, keys: &[Arc<str>]) -> Cmd {
    on_keys(script, keys)
}

/// Whoever looks at nothing wants to know whether the server answers.
pub(super) fn add(pipeline: &mut Pipeline, script: &str, keys: &[Arc<str>]) {
    if keys.is_empty() {
        pipeline.cmd("PING");
    }
    for keys in keys.chunks(MOST_OBSERVED) {
        pipeline.add_command(command(script, keys));
    }
}

pub(super) fn answer(keys: &[Arc<str>], reply: Reply<Vec<LockRow>>, values: &mut Values<'_>) {
    if keys.is_empty() {
        let _ = reply.send(values.next().map(|_| Vec::new()));
        return;
    }
    // Every answer is taken, also after one that is an error.
    let answers: Vec<Result<Vec<LockRow>, StoreError>> = keys
        .chunks(MOST_OBSERVED)
        .map(|keys| {
            let value = values.next()?;
            read_rows(keys, &value).ok_or_else(|| values.not_understood())
        })
        .collect();
    let answers: Result<Vec<Vec<LockRow>>, StoreError> = answers.into_iter().collect();
    let _ = reply.send(answers.map(|rows| rows.into_iter().flatten().collect()));
}

/// What stands under a lock's key.
pub(super) struct Standing {
    pub(super) row: LockRow,
    /// Otherwise the key is no lock.
    pub(super) is_string: bool,
}

/// The locks that were found under these keys; None if the answer is not understood.
pub(super) fn read_rows(keys: &[Arc<str>], answer: &Value) -> Option<Vec<LockRow>> {
    let Value::Array(answers) = answer else {
        return None;
    };
    if answers.len() != keys.len() {
        return None;
    }
    keys.iter()
        .zip(answers)
        .filter(|(_, answer)| !is_nothing(answer))
        .map(|(key, answer)| Some(read_standing(answer, key)?.row))
        .collect()
}

/// A lock as a script found it. For one of the original's, when it was taken is not known: it is as if taken now, and the
/// holder's name has to serve as its id.
pub(super) fn read_standing(value: &Value, key: &Arc<str>) -> Option<Standing> {
    let Value::Array(parts) = value else { return None };
    let text = |index: usize| match parts.get(index)? {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    let (now, holder, id) = (time(parts, 1)?, text(2), text(3)?);
    // A note that somebody wrote by hand may contain any number.
    let since = number(parts, 4).map_or(0.0, seconds);
    // Microseconds, negative if the key never expires, perhaps too many for an integer of 64 bits.
    let left: f64 = text(5)?.parse().ok()?;
    let expires_in = if left < 0.0 { f64::INFINITY } else { left / 1e6 };
    let is_ours = !id.is_empty();
    let is_string = holder.is_some();
    let holder = holder.unwrap_or_default();
    let row = LockRow {
        key: Arc::clone(key),
        id: if is_ours { id } else { format!("holder {holder}") },
        holder,
        acquired_at: if is_ours && since > 0.0 && is_a_date(since) {
            since
        } else {
            now
        },
        expires_at: now + expires_in,
        expires_in,
    };
    Some(Standing { row, is_string })
}
