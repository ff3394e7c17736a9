use super::*;
use crate::lock::lease::{Keeping, Lease};
use crate::lock::metrics::Ledger;
use crate::lock::operation::Won;

const MINUTE: Duration = Duration::from_secs(60);

/// A database whose answers the test gives: it notes what it is asked for.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Request>>>);

enum Request {
    Acquire(Acquire),
    Release(Release),
    HandOver(Release, Acquire),
}

impl Asked {
    fn note(&self, request: Request) {
        self.0.lock().unwrap().push(request);
    }

    /// The only thing asked for since the last time.
    fn next(&self) -> Request {
        let mut asked = std::mem::take(&mut *self.0.lock().unwrap());
        assert_eq!(asked.len(), 1);
        asked.remove(0)
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }

    fn acquire(&self) -> Acquire {
        match self.next() {
            Request::Acquire(acquire) => acquire,
            _ => panic!("no acquisition"),
        }
    }

    fn release(&self) -> Release {
        match self.next() {
            Request::Release(release) => release,
            _ => panic!("no release"),
        }
    }

    fn hand_over(&self) -> (Release, Acquire) {
        match self.next() {
            Request::HandOver(release, acquire) => (release, acquire),
            _ => panic!("not handed over"),
        }
    }
}

impl Store for Asked {
    fn submit(&self, operation: Operation) {
        match operation {
            Operation::Acquire(acquire) => self.note(Request::Acquire(acquire)),
            Operation::Release(release) => self.note(Request::Release(release)),
            Operation::Renew(renew) => drop(renew.reply.send(Ok(Some(60.0)))),
            Operation::Observe { reply, .. } => drop(reply.send(Err(StoreError::transient("not now")))),
            _ => {}
        }
    }

    fn hand_over(&self, release: Release, successor: Acquire) {
        self.note(Request::HandOver(release, successor));
    }

    fn watch(&self, _: &Arc<str>, _: bool) {}

    fn close(&self) {}
}

fn won() -> Won {
    Won {
        token: 1,
        acquired_at: 0.0,
        expires_at: 60.0,
    }
}

/// Another process's row.
fn theirs() -> Option<LockRow> {
    Some(LockRow {
        key: "k".into(),
        id: "theirs".into(),
        holder: "another".into(),
        acquired_at: 0.0,
        expires_at: 60.0,
        expires_in: 60.0,
    })
}

fn engine() -> (Arc<Engine>, Asked) {
    let asked = Asked::default();
    (Engine::new(|_| Box::new(asked.clone())), asked)
}

type Acquiring = std::pin::Pin<Box<dyn Future<Output = Result<Grant, LockError>> + Send>>;

fn acquire(engine: &Arc<Engine>) -> Acquiring {
    let request = super::Request {
        key: "k".into(),
        holder: "holder".into(),
        ttl: MINUTE,
        timeout: MINUTE,
        name: "m:p".into(),
        said_timeout: MINUTE,
        manager: 0,
    };
    Box::pin(engine.acquire(request, Arc::new(Ledger::default())))
}

/// Runs the waiter's task until it waits.
async fn waits(acquiring: &mut Acquiring) {
    let outcome =
        std::future::poll_fn(|context| std::task::Poll::Ready(acquiring.as_mut().poll(context))).await;
    assert!(outcome.is_pending());
}

async fn held(engine: &Arc<Engine>, asked: &Asked) -> Grant {
    let acquiring = acquire(engine);
    asked.acquire().won(won());
    acquiring.await.unwrap()
}

/// A lock that is held, and who waits for it.
async fn held_and_waited_for(engine: &Arc<Engine>, asked: &Asked) -> (Grant, Acquiring) {
    let grant = held(engine, asked).await;
    let mut waiter = acquire(engine);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    (grant, waiter)
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_the_lock_over_before_the_waiters_task_has_run() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let mut next = acquire(&engine);
    waits(&mut next).await;

    let releasing = grant.release();
    let (release, successor) = asked.hand_over();
    successor.won(won());
    release.reply.send(Ok(true)).unwrap();
    let grant = waiter.await.unwrap();
    assert!(releasing.await.unwrap());
    // The lock is held again: nobody asks for it.
    assert!(asked.is_empty());

    waits(&mut next).await;
    drop(grant.release());
    assert!(matches!(asked.next(), Request::HandOver(..)));
}

#[tokio::test(start_paused = true)]
async fn other_processes_get_their_chance_after_many_hand_overs() {
    let (engine, asked) = engine();
    let mut grant = held(&engine, &asked).await;
    let mut waiters: Vec<Acquiring> = (0..40).map(|_| acquire(&engine)).collect();
    asked.acquire().held(theirs());
    let mut handed_over = 0;
    let mut releases = 0;
    waiters.reverse();
    while let Some(mut waiter) = waiters.pop() {
        waits(&mut waiter).await;
        let releasing = grant.release();
        match asked.next() {
            Request::HandOver(release, successor) => {
                release.reply.send(Ok(true)).unwrap();
                successor.won(won());
                handed_over += 1;
            }
            Request::Release(release) => {
                assert_eq!(handed_over, 16);
                (handed_over, releases) = (0, releases + 1);
                release.reply.send(Ok(true)).unwrap();
            }
            Request::Acquire(_) => panic!("asked for what is held"),
        }
        assert!(releasing.await.unwrap());
        if handed_over == 0 {
            asked.acquire().won(won());
        }
        grant = waiter.await.unwrap();
    }
    grant.keep();
    assert_eq!(releases, 2);
}

#[tokio::test(start_paused = true)]
async fn news_of_the_lock_sends_the_request_without_the_waiters_task() {
    let (engine, asked) = engine();
    let mut waiter = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;

    WakeUps(Weak::clone(&engine.weak)).changed(key_hash("k"));
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn news_that_comes_while_the_database_is_asked_is_not_lost() {
    let (engine, asked) = engine();
    let mut waiter = acquire(&engine);
    let looked_too_early = asked.acquire();
    WakeUps(Weak::clone(&engine.weak)).changed(key_hash("k"));
    looked_too_early.held(theirs());
    waits(&mut waiter).await;
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn who_comes_during_a_release_is_asked_for_when_it_is_done() {
    let (engine, asked) = engine();
    let releasing = held(&engine, &asked).await.release();
    let release = asked.release();
    let mut waiter = acquire(&engine);
    waits(&mut waiter).await;
    assert!(asked.is_empty());
    release.reply.send(Ok(true)).unwrap();
    releasing.await.unwrap();
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_gone_is_not_handed_over_and_is_asked_for_again() {
    let (engine, asked) = engine();
    let (grant, mut waiter) = held_and_waited_for(&engine, &asked).await;
    let releasing = grant.release();
    let (release, successor) = asked.hand_over();
    release.reply.send(Ok(false)).unwrap();
    successor.held(None);
    assert!(!releasing.await.unwrap());
    waits(&mut waiter).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    waits(&mut waiter).await;
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gave_up_while_the_lock_came_to_it_releases_it() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let releasing = grant.release();
    let (release, successor) = asked.hand_over();
    drop(waiter);
    let row = Arc::clone(&successor.claim.id);
    successor.won(won());
    release.reply.send(Ok(true)).unwrap();
    releasing.await.unwrap();
    tokio::task::yield_now().await;
    let undone = asked.release();
    assert!(matches!(&undone.target, ReleaseTarget::Row { id, .. } if *id == row));
    undone.reply.send(Ok(true)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_next_in_line_is_asked_for_when_the_first_gives_up() {
    let (engine, asked) = engine();
    let mut first = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut first).await;
    let mut second = acquire(&engine);
    waits(&mut second).await;
    assert!(asked.is_empty());
    drop(first);
    asked.acquire().won(won());
    second.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_shortened_is_asked_for_at_once_by_who_counts_on_its_end() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let ours = LockRow {
        id: grant.hold.row.to_string(),
        ..theirs().unwrap()
    };
    let not_renewed = Keeping {
        auto_renew: false,
        max_hold: None,
    };
    let lease = Lease::new(grant, not_renewed, Arc::new(Ledger::default()));
    let mut waiter = acquire(&engine);
    asked.acquire().held(Some(ours));
    waits(&mut waiter).await;
    lease.renew(Some(MINUTE * 2)).await.unwrap();
    assert!(asked.is_empty());
    lease.renew(Some(MINUTE / 2)).await.unwrap();
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}
