use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::lock::engine::{Progress, Request};
use crate::lock::operation::Acquire;
use crate::lock::store::{Listener, Store, key_hash};

/// Grants everything at once, and then answers no more when told so.
struct Scripted {
    silent: Arc<AtomicBool>,
}

impl Store for Scripted {
    fn submit(&self, operation: Operation) {
        let silent = self.silent.load(Ordering::SeqCst);
        match operation {
            Operation::Acquire(acquire) => Acquire::won(
                acquire,
                Won {
                    token: 1,
                    acquired_at: 0.0,
                    expires_at: 1.0,
                },
            ),
            Operation::Renew(Renew { reply, .. }) if silent => {
                let _ = reply.send(Err(StoreError::unknown_outcome("the connection was lost")));
            }
            Operation::Renew(Renew { reply, .. }) => drop(reply.send(Ok(Some(2.0)))),
            Operation::Release(release) => drop(release.reply.send(Ok(true))),
            _ => {}
        }
    }

    fn watch(&self, _: &Arc<str>, _: bool) {}

    fn close(&self) {}
}

async fn lease(ttl: Duration, auto_renew: bool) -> (Lease, Arc<AtomicBool>) {
    let silent = Arc::new(AtomicBool::new(false));
    let store = Scripted {
        silent: Arc::clone(&silent),
    };
    let engine = Engine::new(Arc::default(), |_| Box::new(store));
    let request = Request {
        key: "bid:lock:m:p".into(),
        holder: "holder".into(),
        ttl,
        timeout: Duration::ZERO,
        name: "m:p".into(),
        said_timeout: Duration::ZERO,
        manager: 0,
        allows_optimistic_handoff: false,
    };
    let ledger = Arc::new(Ledger::default());
    let progress: Arc<dyn Progress> = Arc::clone(&ledger) as _;
    let grant = engine.acquire(request, progress).await.unwrap();
    (
        Lease::new(
            grant,
            Keeping {
                auto_renew,
                ..Keeping::default()
            },
            ledger,
        ),
        silent,
    )
}

#[tokio::test]
async fn a_holder_whose_database_stays_away_stops_believing_in_time() {
    let (lease, silent) = lease(Duration::from_millis(300), true).await;
    silent.store(true, Ordering::SeqCst);
    let reason = lease.lost().await.unwrap();
    assert!(!lease.is_held());
    assert!(
        reason.contains("connection was lost") || reason.contains("time ran out"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_unanswered_shorter_renewal_shortens_what_is_believed() {
    let (lease, silent) = lease(Duration::from_secs(300), false).await;
    silent.store(true, Ordering::SeqCst);
    assert!(lease.renew(Some(Duration::from_millis(50))).await.is_err());
    assert!(lease.remaining() <= Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_may_yet_be_carried_out_limits_what_is_believed_after_a_longer_one() {
    let (lease, silent) = lease(Duration::from_secs(300), false).await;
    silent.store(true, Ordering::SeqCst);
    let unanswered = tokio::spawn(lease.renew(Some(Duration::from_secs(5))));
    tokio::time::sleep(Duration::from_millis(50)).await;
    silent.store(false, Ordering::SeqCst);
    unanswered.await.unwrap().unwrap();
    lease.renew(Some(Duration::from_secs(100))).await.unwrap();
    assert!(lease.is_held());
    assert!(lease.remaining() <= Duration::from_secs(5));
}

#[tokio::test]
async fn a_released_lease_is_not_lost() {
    let (lease, _) = lease(Duration::from_secs(300), true).await;
    let lost = lease.lost();
    assert!(lease.release().await.unwrap());
    assert_eq!(lost.await, None);
    assert!(!lease.release().await.unwrap());
    assert!(matches!(lease.renew(None).await, Err(LockError::Lost { .. })));
}

#[tokio::test]
async fn waiting_for_the_loss_does_not_keep_the_lease() {
    let (lease, _) = lease(Duration::from_secs(300), true).await;
    let lost = lease.lost();
    drop(lease);
    assert_eq!(lost.await, None);
}

#[test]
fn what_a_caller_gives_is_checked_by_name_and_a_margin_is_made_of_the_ttl() {
    let ttl = Duration::from_secs;
    let of =
        |ttl, auto_renew, margin| Keeping::new(ttl, auto_renew, None, margin, None).map(|kept| kept.margin);
    for (lasting, auto_renew, given, margin) in [
        (ttl(300), true, None, ttl(1)),
        (ttl(5), true, None, Duration::from_millis(500)),
        (ttl(300), false, None, Duration::ZERO),
        (ttl(300), false, Some(2.0), ttl(2)),
        (ttl(300), true, Some(0.0), Duration::ZERO),
        (ttl(4), true, Some(1.999), Duration::from_millis(1999)),
    ] {
        assert_eq!(of(lasting, auto_renew, given).unwrap(), margin);
    }
    for (margin, said) in [
        (2.0, "2.0"),
        (-0.1, "-0.1"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
    ] {
        let refused = of(ttl(4), true, Some(margin)).unwrap_err().to_string();
        assert!(
            refused.starts_with("margin must be") && refused.ends_with(said),
            "{refused}"
        );
        assert!(refused.contains("half of ttl (2.0)"), "{refused}");
    }
    let of = |given| Keeping::new(ttl(4), true, None, None, given).map(|kept| kept.loss_check);
    assert_eq!(of(None).unwrap(), None);
    assert_eq!(of(Some(0.1)).unwrap(), Some(Duration::from_millis(100)));
    for (given, said) in [
        (0.0, "0.0"),
        (-1.0, "-1.0"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
    ] {
        let refused = of(Some(given)).unwrap_err().to_string();
        assert!(
            refused.starts_with("loss_check must be") && refused.ends_with(said),
            "{refused}"
        );
    }
    let of = |given| Keeping::new(ttl(4), true, given, None, None).map(|kept| kept.max_hold);
    assert_eq!(of(Some(2e9)).unwrap(), Some(ttl(1_000_000_000)));
    assert!(of(Some(f64::INFINITY)).is_err());
}

/// Fails every look, and counts the looks and their keys.
#[derive(Default)]
struct Looked {
    keys: Arc<Mutex<Vec<usize>>>,
    apart: Duration,
}

impl Store for Looked {
    fn submit(&self, operation: Operation) {
        match operation {
            Operation::Acquire(acquire) => acquire.won(Won {
                token: 1,
                acquired_at: 0.0,
                expires_at: 1.0,
            }),
            Operation::Observe { keys, reply, .. } => {
                lock(&self.keys).push(keys.len());
                // Nothing is to be concluded from a failure.
                let _ = reply.send(Err(StoreError::permanent("no")));
            }
            Operation::Renew(Renew { reply, .. }) => drop(reply.send(Ok(Some(2.0)))),
            Operation::Release(release) => drop(release.reply.send(Ok(true))),
            _ => {}
        }
    }

    fn looks_apart(&self) -> Duration {
        self.apart
    }

    fn watch(&self, _: &Arc<str>, _: bool) {}

    fn close(&self) {}
}

/// A process that holds leases.
struct Holding {
    keys: Arc<Mutex<Vec<usize>>>,
    listener: Arc<dyn Listener>,
    leases: Vec<Lease>,
}

impl Holding {
    /// The looks of so many seconds, by the number of their keys.
    async fn looks(&self, seconds: u64) -> Vec<usize> {
        lock(&self.keys).clear();
        // A bit longer, for what happens at once.
        sleep(Duration::from_secs(seconds) + Duration::from_millis(1)).await;
        assert!(self.leases.iter().all(Lease::is_held));
        lock(&self.keys).clone()
    }
}

/// Leases with such checks, where the store wants looks to be so far apart.
async fn holding(apart: u64, ttl: u64, auto_renew: bool, loss_checks: &[Option<f64>]) -> Holding {
    let ttl = Duration::from_secs(ttl);
    let store = Looked {
        apart: Duration::from_secs(apart),
        ..Looked::default()
    };
    let keys = Arc::clone(&store.keys);
    let mut listener = None;
    let engine = Engine::new(Arc::default(), |engine| {
        listener = Some(engine);
        Box::new(store)
    });
    let mut leases = Vec::new();
    for (number, loss_check) in loss_checks.iter().enumerate() {
        let ledger = Arc::new(Ledger::default());
        let request = Request {
            key: format!("bid:lock:m:{number}").into(),
            holder: "holder".into(),
            ttl,
            timeout: Duration::ZERO,
            name: "m".into(),
            said_timeout: Duration::ZERO,
            manager: 0,
            allows_optimistic_handoff: false,
        };
        let grant = engine.acquire(request, Arc::clone(&ledger) as _).await.unwrap();
        let keeping = Keeping::new(ttl, auto_renew, None, None, *loss_check).unwrap();
        leases.push(Lease::new(grant, keeping, ledger));
    }
    Holding {
        keys,
        listener: listener.unwrap(),
        leases,
    }
}

/// The looks of so many seconds, by the number of their keys.
async fn looks(loss_checks: &[Option<f64>], seconds: u64) -> Vec<usize> {
    holding(0, 300, false, loss_checks).await.looks(seconds).await
}

#[tokio::test(start_paused = true)]
async fn one_statement_looks_for_all_leases_as_often_as_the_most_impatient_of_them_wants() {
    let every_second = looks(&[Some(1.0); 50], 60).await;
    assert!((60..=71).contains(&every_second.len()), "{every_second:?}");
    assert!(every_second.iter().all(|keys| *keys == 50));
    let slowly = looks(&[Some(10.0); 3], 60).await;
    assert!((5..=7).contains(&slowly.len()), "{slowly:?}");
    let mixed = looks(&[Some(10.0), Some(0.5), None], 60).await;
    assert!((118..=142).contains(&mixed.len()), "{mixed:?}");
    assert!(mixed.iter().all(|keys| *keys == 2));
    assert_eq!(looks(&[None; 3], 60).await, Vec::<usize>::new());
}

#[tokio::test(start_paused = true)]
async fn looks_are_as_far_apart_as_the_store_wants_them_to_be() {
    for (apart, loss_check, least, most) in [(8, 1.0, 75, 89), (8, 20.0, 30, 36), (1, 1.0, 600, 710)] {
        let looks = holding(apart, 300, false, &[Some(loss_check); 5])
            .await
            .looks(600)
            .await;
        assert!(
            (least..=most).contains(&looks.len()),
            "{apart}, {loss_check}: {}",
            looks.len()
        );
    }
    let unchecked = holding(8, 300, false, &[None; 3]).await;
    assert_eq!(unchecked.looks(60).await, Vec::<usize>::new());
}

#[tokio::test(start_paused = true)]
async fn renewals_that_come_more_often_than_looks_make_them_needless() {
    // A third of 15 s is more than a second, and less than eight.
    let renewed = async |apart| {
        let holding = holding(apart, 15, true, &[Some(1.0)]).await;
        holding.leases[0].renew(None).await.unwrap();
        holding
    };
    assert!(!renewed(0).await.looks(4).await.is_empty());
    let holding = renewed(8).await;
    assert_eq!(holding.looks(60).await.len(), 0);
    // News is not to wait for them.
    holding.listener.connected_anew();
    assert_eq!(holding.looks(1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_connection_has_the_rows_looked_for_at_once() {
    let holding = holding(100, 300, false, &[Some(1.0)]).await;
    assert_eq!(holding.looks(60).await.len(), 0);
    holding.listener.connected_anew();
    assert_eq!(holding.looks(0).await.len(), 1);
    assert_eq!(holding.looks(60).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn news_of_a_held_key_stands_in_for_looks_that_are_put_off() {
    let far_apart = holding(100, 300, false, &[Some(1.0)]).await;
    let often = holding(1, 300, false, &[Some(1.0)]).await;
    let is_looked_for = async |holding: &Holding, tell: fn(&dyn Listener)| {
        tell(&*holding.listener);
        !holding.looks(0).await.is_empty()
    };
    let key = |listener: &dyn Listener| listener.changed(key_hash("bid:lock:m:0"));
    // It may tell of the release that made way for the lease.
    assert!(!is_looked_for(&far_apart, key).await);
    std::thread::sleep(Duration::from_millis(1100));
    assert!(is_looked_for(&far_apart, key).await);
    assert!(is_looked_for(&far_apart, |listener| listener.anything_changed()).await);
    assert!(!is_looked_for(&far_apart, |listener| listener.changed(key_hash("bid:lock:m:1"))).await);
    assert!(
        !is_looked_for(&often, key).await,
        "the next look comes soon anyway"
    );
}
