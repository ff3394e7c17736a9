use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::lock::engine::{Engine, Progress, Request};
use crate::lock::{Keeping, Lease, LockError};

struct NoProgress;

impl Progress for NoProgress {
    fn conflict(&self) {}
    fn hand_off(&self) {}
    fn backend_error(&self) {}
}

/// An engine in memory whose clock is set by the test.
fn engine(clock: &Arc<AtomicU64>) -> Arc<Engine> {
    let shown = Arc::clone(clock);
    let clock: WallClock = Arc::new(move || f64::from_bits(shown.load(Ordering::SeqCst)));
    Engine::new(Arc::default(), |listener| {
        Box::new(SqliteStore::new(Location::Memory, clock, listener))
    })
}

fn request(timeout: Duration) -> Request {
    Request {
        key: "bid:lock:m:p".into(),
        holder: "holder".into(),
        ttl: Duration::from_secs(100),
        timeout,
        name: "m:p".into(),
        said_timeout: timeout,
        manager: 0,
        allows_optimistic_handoff: false,
    }
}

fn set(clock: &AtomicU64, seconds: f64) {
    clock.store(seconds.to_bits(), Ordering::SeqCst);
}

#[tokio::test]
async fn tokens_grow_though_the_clock_is_set_back() {
    let clock = Arc::new(AtomicU64::new(0));
    let engine = engine(&clock);
    let mut last = 0;
    for seconds in [5000.0, 4000.0, 0.0, 6000.0, 1.0] {
        set(&clock, seconds);
        let grant = engine
            .acquire(request(Duration::ZERO), Arc::new(NoProgress))
            .await
            .unwrap();
        // The one between is for handing the lock over.
        assert!(grant.won.token > last + 1);
        last = grant.won.token;
        grant.release().await.unwrap();
    }
}

#[tokio::test]
async fn waiting_does_not_go_by_a_clock_that_jumps() {
    let clock = Arc::new(AtomicU64::new(0));
    let engine = engine(&clock);
    set(&clock, 5000.0);
    let grant = engine
        .acquire(request(Duration::ZERO), Arc::new(NoProgress))
        .await
        .unwrap();
    for jump in [-4000.0, 4050.0] {
        let started = Instant::now();
        let waiting = engine.acquire(request(Duration::from_millis(100)), Arc::new(NoProgress));
        set(&clock, f64::from_bits(clock.load(Ordering::SeqCst)) + jump);
        assert!(matches!(waiting.await, Err(LockError::Timeout { .. })));
        assert!(
            started.elapsed() >= Duration::from_millis(100) && started.elapsed() < Duration::from_secs(5)
        );
    }
    drop(grant);
}

#[tokio::test]
async fn a_holder_whose_row_expired_by_a_jump_learns_it_at_its_next_renewal() {
    let clock = Arc::new(AtomicU64::new(0));
    let engine = engine(&clock);
    let grant = engine
        .acquire(request(Duration::ZERO), Arc::new(NoProgress))
        .await
        .unwrap();
    let lease = Lease::new(
        grant,
        Keeping {
            auto_renew: false,
            ..Keeping::default()
        },
        Arc::default(),
    );
    set(&clock, 1000.0);
    assert!(matches!(lease.renew(None).await, Err(LockError::Lost { .. })));
    assert!(!lease.is_held());
}

#[test]
fn what_was_looked_at_is_read_anew_when_somebody_has_written() {
    let folder = tempfile::tempdir().unwrap();
    let open = || rusqlite::Connection::open(folder.path().join("locks.db")).unwrap();
    let (ours, theirs) = (open(), open());
    schema::prepare(&ours).unwrap();
    let insert = |id: &str, key: &str| {
        format!(
            "INSERT INTO distributed_locks (id, lock_key, holder_id, acquired_at, expires_at) VALUES ('{id}', '{key}', 'h', 0, 100)"
        )
    };
    let keys: [Arc<str>; 2] = ["a".into(), "b".into()];
    let mut seen = statements::Seen::default();
    let mut ids = |now: f64| -> Vec<String> {
        let rows = seen.observe(&ours, &keys, now).unwrap();
        assert!(
            rows.iter()
                .all(|row| row.expires_in > 0.0 && row.expires_in <= 100.0 - now)
        );
        rows.into_iter().map(|row| row.id).collect()
    };
    assert!(ids(0.0).is_empty());
    theirs.execute_batch(&insert("1", "a")).unwrap();
    assert_eq!(ids(1.0), ["1"]);
    assert_eq!(ids(2.0), ["1"]);
    ours.execute_batch(&insert("2", "b")).unwrap();
    assert_eq!(ids(3.0), ["1", "2"]);
    theirs
        .execute_batch("DELETE FROM distributed_locks WHERE id = '2'")
        .unwrap();
    assert_eq!(ids(4.0), ["1"]);
    assert!(ids(100.0).is_empty());
    ours.execute_batch("DELETE FROM distributed_locks").unwrap();
    assert!(ids(5.0).is_empty());
}

/// Submits one request and returns its outcome.
async fn submit<T>(
    store: &SqliteStore,
    make: impl FnOnce(crate::lock::operation::Reply<T>) -> Operation,
) -> Result<T, crate::lock::error::StoreError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    store.submit(make(reply));
    answer.await.unwrap()
}

fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

struct Nobody;

impl Listener for Nobody {
    fn changed(&self, _: u64) {}

    fn anything_changed(&self) {}
}

fn renewal(id: &str, reply: crate::lock::operation::Reply<Option<f64>>) -> Operation {
    Operation::Renew(crate::lock::operation::Renew {
        id: id.into(),
        key: "".into(),
        ttl: Duration::from_secs(50),
        until: later(),
        reply,
    })
}

/// Makes a store whose clock shows 10 s, and another connection to the file of that store.
async fn store_and_neighbour(folder: &tempfile::TempDir) -> (SqliteStore, rusqlite::Connection) {
    let path = folder.path().join("locks.db");
    let location = Location::File {
        path: path.clone(),
        create_folders: false,
    };
    let store = SqliteStore::new(location, Arc::new(|| 10.0), Arc::new(Nobody));
    submit(&store, |reply| Operation::List {
        until: later(),
        reply,
    })
    .await
    .unwrap();
    (store, rusqlite::Connection::open(path).unwrap())
}

fn insert(id: &str, expires_at: &str) -> String {
    format!("INSERT INTO distributed_locks VALUES ('{id}', 'key {id}', 'h', 1, {expires_at}, NULL);")
}

#[tokio::test]
async fn what_is_refused_is_refused_alone() {
    for how in ["ABORT", "FAIL", "ROLLBACK"] {
        let folder = tempfile::tempdir().unwrap();
        let (store, neighbour) = store_and_neighbour(&folder).await;
        neighbour
            .execute_batch(&format!(
                "{}{}{} CREATE TRIGGER refuse BEFORE UPDATE ON distributed_locks WHEN old.id = 'bad' \
                 BEGIN SELECT RAISE({how}, 'not this one'); END",
                insert("one", "20"),
                insert("bad", "20"),
                insert("two", "20"),
            ))
            .unwrap();
        for _ in 0..20 {
            let (one, bad, two, listed) = tokio::join!(
                submit(&store, |reply| renewal("one", reply)),
                submit(&store, |reply| renewal("bad", reply)),
                submit(&store, |reply| renewal("two", reply)),
                submit(&store, |reply| Operation::List {
                    until: later(),
                    reply
                }),
            );
            assert_eq!((one.unwrap(), two.unwrap()), (Some(60.0), Some(60.0)));
            assert!(!bad.unwrap_err().transient);
            assert_eq!(listed.unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn a_row_is_read_as_well_as_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let (store, neighbour) = store_and_neighbour(&folder).await;
    for (id, end) in [
        ("a", "20"),
        ("b", "'soon'"),
        ("c", "x'00'"),
        ("d", "9e999"),
        ("e", "5"),
    ] {
        neighbour.execute_batch(&insert(id, end)).unwrap();
    }
    let rows = submit(&store, |reply| Operation::List {
        until: later(),
        reply,
    })
    .await
    .unwrap();
    let left: Vec<f64> = rows.iter().map(|row| row.expires_in).collect();
    assert_eq!(left, [10.0, f64::INFINITY, f64::INFINITY, f64::INFINITY, -5.0]);
    assert!(
        rows.iter()
            .all(|row| !row.expires_at.is_nan() && row.acquired_at.is_finite())
    );
    let keys = rows.iter().map(|row| Arc::clone(&row.key)).collect();
    let seen = submit(&store, |reply| Operation::Observe {
        keys,
        until: later(),
        reply,
    })
    .await
    .unwrap();
    assert_eq!(seen.len(), 4);
    assert_eq!(
        submit(&store, |reply| Operation::Count {
            until: later(),
            reply
        })
        .await
        .unwrap(),
        4
    );
}

#[tokio::test]
async fn a_table_without_its_index_is_one_that_is_being_made() {
    let folder = tempfile::tempdir().unwrap();
    let (store, neighbour) = store_and_neighbour(&folder).await;
    neighbour
        .execute_batch("DROP INDEX ix_distributed_locks_lock_key")
        .unwrap();
    let acquire = |reply| {
        let owner = engine(&Arc::default());
        let claim = crate::lock::operation::Claim::new("k".into(), "h".into(), Duration::from_secs(5), owner);
        Operation::Acquire(crate::lock::operation::Acquire {
            claim,
            until: later(),
            reply,
        })
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    store.submit(acquire(reply));
    let (_, outcome) = answer.await.unwrap();
    let error = outcome.unwrap_err();
    assert!(
        error.transient && error.message.contains("no unique index"),
        "{error}"
    );
    neighbour
        .execute_batch("CREATE UNIQUE INDEX i ON distributed_locks (lock_key)")
        .unwrap();
    let (reply, answer) = tokio::sync::oneshot::channel();
    store.submit(acquire(reply));
    assert!(answer.await.unwrap().1.is_ok());
}
