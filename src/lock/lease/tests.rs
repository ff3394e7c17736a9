use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::lock::engine::{Progress, Request};
use crate::lock::operation::Acquire;
use crate::lock::store::Store;

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
