//! The names that things have in Redis.
//!
//! The original's Redis locks are called `bid_lock:{marketplace}:{posting}`, those of its database `bid:lock:…`. Here both
//! are one lock, under the first name. Nothing that is not called so is ever read or written, whatever key is asked for.

use std::sync::Arc;

use crate::lock::store::key_hash;

/// What every key begins with whose value is a lock's holder.
const LOCK: &str = "bid_lock:";
/// What the engine's keys begin with.
const ENGINE: &str = "bid:lock:";
/// All keys of locks, as a pattern.
pub(super) const ALL_LOCKS: &str = "bid_lock:*";
/// The hash of the fencing tokens drawn last, by bucket.
pub(super) const FENCES: &str = "arbitrageai:lock_fences";
/// Tokens are drawn from so many counters, chosen by the key: few enough to keep for ever.
const FENCE_BUCKETS: u64 = 4096;
const CHANNEL: &str = "arbitrageai:lock:";

/// The key whose value is the holder's name.
pub(super) fn lock(key: &str) -> String {
    let name = key
        .strip_prefix(ENGINE)
        .or_else(|| key.strip_prefix(LOCK))
        .unwrap_or(key);
    format!("{LOCK}{name}")
}

/// The key of what else is known about a lock; it never looks like a lock's own.
pub(super) fn note(key: &str) -> String {
    format!("arbitrageai:{}", lock(key))
}

/// The engine's name for a lock's key.
pub(super) fn engine_key(lock: &str) -> Arc<str> {
    format!("{ENGINE}{}", lock.strip_prefix(LOCK).unwrap_or(lock)).into()
}

/// The field of [`FENCES`] that a key's tokens come from.
pub(super) fn fence_bucket(key: &str) -> u64 {
    key_hash(key) % FENCE_BUCKETS
}

/// Where a release of a key is published, whichever of its names is given.
pub(super) fn channel_of(key: &str) -> String {
    channel(key_hash(&engine_key(&lock(key))))
}

/// Where a release of the key with this hash is published.
pub(super) fn channel(hash: u64) -> String {
    format!("{CHANNEL}{hash}")
}

/// The hash of the key that a channel is for.
pub(super) fn hash_of_channel(channel: &str) -> Option<u64> {
    channel.strip_prefix(CHANNEL)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_the_originals_name() {
        assert_eq!(lock("bid:lock:upwork:p:1"), "bid_lock:upwork:p:1");
        assert_eq!(&*engine_key("bid_lock:upwork:p:1"), "bid:lock:upwork:p:1");
    }

    #[test]
    fn no_key_of_the_application_is_ever_named() {
        for key in ["session:7", "arbitrageai:lock_fences", "bid_lock:m:p", ""] {
            assert!(lock(key).starts_with(LOCK), "{key}");
            assert!(!note(key).starts_with(LOCK), "{key}");
        }
    }

    #[test]
    fn a_channel_tells_its_key() {
        assert_eq!(hash_of_channel(&channel(u64::MAX)), Some(u64::MAX));
        assert_eq!(hash_of_channel("arbitrageai:other"), None);
        assert_eq!(channel_of("bid_lock:m:p"), channel(key_hash("bid:lock:m:p")));
    }
}
