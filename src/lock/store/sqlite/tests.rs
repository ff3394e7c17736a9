use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::lock::{Engine, Keeping, Lease, LockError, Progress, Request};

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
    Engine::new(|listener| Box::new(SqliteStore::new(Location::Memory, clock, listener)))
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
        assert!(grant.won.token > last);
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
            max_hold: None,
        },
        Arc::default(),
    );
    set(&clock, 1000.0);
    assert!(matches!(lease.renew(None).await, Err(LockError::Lost { .. })));
    assert!(!lease.is_held());
}
