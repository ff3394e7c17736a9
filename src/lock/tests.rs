//! What every store must do, on each store.
//!
//! PostgreSQL and Redis need servers, which Python's suite starts (`tests/locks/test_core.py`). It names them in
//! `ARBITRAGEAI_TEST_POSTGRES_URL` and `ARBITRAGEAI_TEST_REDIS_URL`; without these the tests on servers do nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::sync::oneshot;

use super::operation::{Acquire, Claim, Operation};
use super::*;
use crate::figures::Ledger;

const MINUTE: Duration = Duration::from_secs(60);
const KEEP: Keeping = Keeping {
    auto_renew: true,
    max_hold: None,
    margin: Duration::ZERO,
    loss_check: None,
};

fn file(folder: &Path) -> Database {
    let url = format!("sqlite:///{}", folder.join("locks.db").display());
    Database::parse(&url, &Options::default()).unwrap()
}

fn manager(registry: &Registry, database: &Database) -> Manager {
    Manager::new(registry.engine(database), Ledger::default())
}

fn wanted(posting: &str, ttl: f64, timeout: f64) -> Wanted {
    Wanted::new("m", posting, "default", ttl, timeout).unwrap()
}

/// Runs a test on a file and in memory; the test gets managers of two processes, as it were: two registries. In memory
/// there can be but one process.
macro_rules! on_each_store {
    ($($name:ident)*) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn file() {
                let folder = tempfile::tempdir().unwrap();
                let database = super::file(folder.path());
                let (one, other) = (super::Registry::default(), super::Registry::default());
                super::$name(&super::manager(&one, &database), &super::manager(&other, &database)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory() {
                let database = super::Database::PrivateMemory(1);
                let one = super::Registry::default();
                super::$name(&super::manager(&one, &database), &super::manager(&one, &database)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let Some(database) = super::postgres(stringify!($name)).await else {
                    return;
                };
                super::on_a_server(database, async |one, other| super::$name(one, other).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                let Some(database) = super::redis().await else {
                    return;
                };
                super::on_a_server(database, async |one, other| super::$name(one, other).await).await;
            }
        }
    )* };
}

/// Runs a test with managers that are connected: a connection takes longer than the shortest lease lasts.
async fn on_a_server(database: Database, test: impl AsyncFnOnce(&Manager, &Manager)) {
    let registries = (Registry::default(), Registry::default());
    let (one, other) = (
        manager(&registries.0, &database),
        manager(&registries.1, &database),
    );
    for each in [&one, &other] {
        each.rows().await.unwrap();
    }
    test(&one, &other).await;
}

/// A schema of its own on the server that the environment names, if it does.
async fn postgres(schema: &str) -> Option<Database> {
    let server = std::env::var("ARBITRAGEAI_TEST_POSTGRES_URL").ok()?;
    let mut connection = PgConnection::connect(&server).await.unwrap();
    let made = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}");
    connection.execute(AssertSqlSafe(made)).await.unwrap();
    let url = format!("{server}?options=-csearch_path%3D{schema}");
    Some(Database::parse(&url, &Options::default()).unwrap())
}

/// A database of its own on the server that the environment names, if it does.
async fn redis() -> Option<Database> {
    static USED: AtomicUsize = AtomicUsize::new(0);
    let server = std::env::var("ARBITRAGEAI_TEST_REDIS_URL").ok()?;
    let number = 1 + USED.fetch_add(1, Ordering::SeqCst);
    let url = format!("{}/{number}", server.trim_end_matches("/0"));
    let client = ::redis::Client::open(&*url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = ::redis::cmd("FLUSHDB")
        .query_async(&mut connection)
        .await
        .unwrap();
    Some(Database::parse(&url, &Options::default()).unwrap())
}

on_each_store! {
    a_lock_excludes_others_until_it_is_released
    an_expired_lock_is_taken_over_promptly
    tokens_grow
    a_dropped_grant_leaves_nothing
    abandoned_acquisitions_leave_nothing
    waiters_are_served_in_order
    an_expired_holder_cannot_delete_its_successor
    a_lease_outlives_its_ttl
    a_lost_lease_is_told
    a_lease_that_is_shortened_is_taken_over_at_its_new_end
    a_try_that_comes_late_ends_a_lease_no_sooner
    nobody_is_lost_between_two_processes
}

async fn a_lock_excludes_others_until_it_is_released(one: &Manager, other: &Manager) {
    one.acquire(wanted("p", 60.0, 0.0)).await.unwrap().keep();
    let started = Instant::now();
    let refused = other.acquire(wanted("p", 60.0, 0.2)).await;
    assert!(matches!(refused, Err(LockError::Timeout { .. })));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(one.active_locks(MINUTE).await, 1);
    let waiter = other.acquire(wanted("p", 60.0, 30.0));
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            one.release(&LockName::new("m", "p").unwrap(), "default".into())
                .await
                .unwrap()
        );
    };
    let (grant, ()) = tokio::join!(waiter, release);
    assert!(grant.unwrap().release().await.unwrap());
    assert_eq!(one.active_locks(MINUTE).await, 0);
}

async fn an_expired_lock_is_taken_over_promptly(one: &Manager, other: &Manager) {
    one.acquire(wanted("p", 0.3, 0.0)).await.unwrap().keep();
    let started = Instant::now();
    other.acquire(wanted("p", 60.0, 30.0)).await.unwrap().keep();
    let taken = started.elapsed();
    assert!(
        taken >= Duration::from_millis(250) && taken < Duration::from_millis(600),
        "{taken:?}"
    );
}

async fn tokens_grow(one: &Manager, other: &Manager) {
    let mut last = 0;
    for round in 0..20 {
        let manager = if round % 2 == 0 { one } else { other };
        let grant = manager.acquire(wanted("p", 60.0, 5.0)).await.unwrap();
        assert!(grant.won.token > last);
        last = grant.won.token;
        if round == 10 {
            manager.clear().await.unwrap();
        }
        drop(grant);
    }
}

async fn a_dropped_grant_leaves_nothing(one: &Manager, other: &Manager) {
    drop(one.acquire(wanted("p", 60.0, 0.0)).await.unwrap());
    assert!(
        other
            .acquire(wanted("p", 60.0, 5.0))
            .await
            .unwrap()
            .release()
            .await
            .unwrap()
    );
    assert!(one.rows().await.unwrap().is_empty());
}

async fn abandoned_acquisitions_leave_nothing(one: &Manager, other: &Manager) {
    for round in 0..300_u64 {
        let manager = if round % 2 == 0 { one } else { other };
        let acquisition = async {
            let lease = manager
                .lease(wanted(&format!("p{}", round % 3), 60.0, 5.0), KEEP)
                .await
                .unwrap();
            tokio::task::yield_now().await;
            lease.release().await.unwrap();
        };
        let _ = tokio::time::timeout(Duration::from_micros(round * 5), acquisition).await;
    }
    let deadline = Instant::now() + MINUTE;
    while !one.rows().await.unwrap().is_empty() || one.engine().in_use() || other.engine().in_use() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn waiters_are_served_in_order(one: &Manager, _: &Manager) {
    let grant = one.acquire(wanted("p", 60.0, 0.0)).await.unwrap();
    let served = AtomicUsize::new(0);
    let waiters = (0..20).map(|turn| {
        let served = &served;
        async move {
            let grant = one.acquire(wanted("p", 60.0, 30.0)).await.unwrap();
            assert_eq!(served.fetch_add(1, Ordering::SeqCst), turn);
            grant.release().await.unwrap();
        }
    });
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        grant.release().await.unwrap();
    };
    tokio::join!(futures_util::future::join_all(waiters), release);
}

async fn an_expired_holder_cannot_delete_its_successor(one: &Manager, other: &Manager) {
    one.acquire(wanted("p", 0.05, 0.0)).await.unwrap().keep();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let successor = other.lease(wanted("p", 60.0, 5.0), KEEP).await.unwrap();
    let name = LockName::new("m", "p").unwrap();
    // In memory both are one process, and its latest acquisition is what a release by name means.
    if !Arc::ptr_eq(one.engine(), other.engine()) {
        assert!(!one.release(&name, "default".into()).await.unwrap());
        assert!(!one.release(&name, "default".into()).await.unwrap());
        assert_eq!(one.rows().await.unwrap().len(), 1);
    }
    assert!(successor.release().await.unwrap());
}

async fn a_lease_outlives_its_ttl(one: &Manager, other: &Manager) {
    let lease = one.lease(wanted("p", 0.3, 0.0), KEEP).await.unwrap();
    assert!(other.acquire(wanted("p", 60.0, 1.0)).await.is_err());
    assert!(lease.is_held());
    assert!(lease.release().await.unwrap());
    assert!(!lease.is_held());
    assert!(lease.lost().await.is_none());
}

async fn a_lost_lease_is_told(one: &Manager, other: &Manager) {
    let lease = one.lease(wanted("p", 0.3, 0.0), KEEP).await.unwrap();
    other.clear().await.unwrap();
    assert!(lease.lost().await.is_some());
    assert!(!lease.is_held());
    assert!(matches!(lease.renew(None).await, Err(LockError::Lost { .. })));
    assert!(!lease.release().await.unwrap());
    let short = Keeping {
        auto_renew: true,
        max_hold: Some(Duration::from_millis(400)),
        ..KEEP
    };
    let lease = one.lease(wanted("q", 0.3, 0.0), short).await.unwrap();
    let reason = lease.lost().await.unwrap();
    assert!(reason.contains("max_hold"), "{reason}");
}

async fn a_lease_that_is_shortened_is_taken_over_at_its_new_end(one: &Manager, other: &Manager) {
    let not_renewed = Keeping {
        auto_renew: false,
        ..KEEP
    };
    for waits in [one, other] {
        let lease = one.lease(wanted("p", 60.0, 0.0), not_renewed).await.unwrap();
        let waiter = waits.acquire(wanted("p", 60.0, 30.0));
        let shorten = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            lease.renew(Some(Duration::from_millis(200))).await.unwrap();
            Instant::now()
        };
        let (grant, shortened) = tokio::join!(waiter, shorten);
        let waited = shortened.elapsed();
        assert!(waited < Duration::from_secs(2), "{waited:?}");
        grant.unwrap().release().await.unwrap();
        assert!(lease.lost().await.is_some());
    }
}

async fn a_try_that_comes_late_ends_a_lease_no_sooner(one: &Manager, _: &Manager) {
    let lease = one.lease(wanted("p", 3.0, 0.0), KEEP).await.unwrap();
    lease.renew(Some(MINUTE)).await.unwrap();
    let [row] = &one.rows().await.unwrap()[..] else {
        panic!("one row stands")
    };
    let ttl = Duration::from_secs(3);
    let mut late = Claim::new(Arc::clone(&row.key), "default".into(), ttl, one.engine().clone());
    late.id = row.id.as_str().into();
    let (reply, answer) = oneshot::channel();
    one.engine().submit(Operation::Acquire(Acquire {
        claim: late,
        until: tokio::time::Instant::now() + MINUTE,
        reply,
    }));
    let (mut late, _) = answer.await.unwrap();
    late.disarm();
    let rows = one.rows().await.unwrap();
    assert!(rows[0].expires_in > 50.0, "{rows:?}");
    assert!(lease.release().await.unwrap());
}

async fn nobody_is_lost_between_two_processes(one: &Manager, other: &Manager) {
    let (inside, rounds) = (AtomicUsize::new(0), 100);
    let work = |manager: &'static str, by| {
        let inside = &inside;
        async move {
            let by: &Manager = by;
            for _ in 0..rounds {
                let wanted = Wanted::new("m", "p", manager, 60.0, 60.0).unwrap();
                let lease = by.lease(wanted, KEEP).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                assert!(lease.release().await.unwrap());
            }
        }
    };
    tokio::join!(work("a", one), work("b", one), work("c", other), work("d", other));
}
