use super::*;
use crate::figures::{Ledger, LockCounter};
use crate::lock::lease::{Keeping, Lease};
use crate::lock::operation::{Acquire, HandOver, Release, ReleaseTarget, Renew, Won};

const MINUTE: Duration = Duration::from_secs(60);

/// A database whose answers the test gives: it notes what it is asked for.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Request>>>, Arc<Mutex<Looks>>);

/// What the database shows to who looks, if it answers, how often it was looked at, and for which
/// keys it looks out.
#[derive(Default)]
struct Looks {
    rows: Option<Vec<LockRow>>,
    count: u32,
    watched: Vec<String>,
}

enum Request {
    Acquire(Acquire),
    Release(Release),
    HandOver(HandOver),
    Renew(Renew),
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

    fn renew(&self) -> Renew {
        match self.next() {
            Request::Renew(renew) => renew,
            _ => panic!("no renewal"),
        }
    }

    /// All that has been asked for since the last time.
    fn releases(&self) -> Vec<Release> {
        let asked = std::mem::take(&mut *self.0.lock().unwrap());
        asked
            .into_iter()
            .map(|request| match request {
                Request::Release(release) => release,
                _ => panic!("no release"),
            })
            .collect()
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

    fn hand_over(&self) -> HandOver {
        match self.next() {
            Request::HandOver(hand_over) => hand_over,
            _ => panic!("not handed over"),
        }
    }
}

impl Store for Asked {
    fn submit(&self, operation: Operation) {
        match operation {
            Operation::Acquire(acquire) => self.note(Request::Acquire(acquire)),
            Operation::Release(release) => self.note(Request::Release(release)),
            Operation::HandOver(hand_over) => self.note(Request::HandOver(hand_over)),
            Operation::Renew(renew) => self.note(Request::Renew(renew)),
            Operation::Observe { reply, .. } => {
                let mut looks = self.1.lock().unwrap();
                looks.count += 1;
                let rows = looks.rows.clone();
                drop(reply.send(rows.ok_or_else(|| StoreError::transient("not now"))));
            }
            _ => {}
        }
    }

    fn watch(&self, key: &Arc<str>, begins: bool) {
        let watched = &mut self.1.lock().unwrap().watched;
        if begins {
            watched.push(key.to_string());
        } else {
            let at = watched.iter().position(|watched| **watched == **key).unwrap();
            watched.remove(at);
        }
    }

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

fn from_store(engine: &Arc<Engine>) -> FromStore {
    FromStore {
        engine: Weak::clone(&engine.weak),
        reporter: Arc::default(),
    }
}

fn engine() -> (Arc<Engine>, Asked) {
    let asked = Asked::default();
    (Engine::new(Arc::default(), |_| Box::new(asked.clone())), asked)
}

type Acquiring = std::pin::Pin<Box<dyn Future<Output = Result<Grant, LockError>> + Send>>;

/// One who will have a lease.
fn acquire(engine: &Arc<Engine>) -> Acquiring {
    acquire_for(engine, MINUTE, true)
}

fn acquire_for(engine: &Arc<Engine>, ttl: Duration, allows_optimistic_handoff: bool) -> Acquiring {
    acquire_by(engine, 0, ttl, allows_optimistic_handoff)
}

fn acquire_by(
    engine: &Arc<Engine>,
    manager: u64,
    ttl: Duration,
    allows_optimistic_handoff: bool,
) -> Acquiring {
    let request = super::Request {
        manager,
        ttl,
        allows_optimistic_handoff,
        ..request(MINUTE)
    };
    Box::pin(engine.acquire(request, Arc::new(Ledger::default())))
}

fn request(timeout: Duration) -> super::Request {
    super::Request {
        key: "k".into(),
        holder: "holder".into(),
        ttl: MINUTE,
        timeout,
        name: "m:p".into(),
        said_timeout: timeout,
        manager: 0,
        allows_optimistic_handoff: true,
    }
}

/// Has a lock of this process expire, as if its time had passed.
fn expires_now(engine: &Engine, hold: &Hold) {
    hold.life().expire(BootTime::now());
    engine.table().expire(&hold.key, BootTime::now());
}

/// Runs the waiter's task until it waits.
async fn waits(acquiring: &mut Acquiring) {
    let outcome =
        std::future::poll_fn(|context| std::task::Poll::Ready(acquiring.as_mut().poll(context))).await;
    assert!(outcome.is_pending());
}

/// A lease that nobody renews.
fn leased(grant: Grant) -> Lease {
    counted(grant).0
}

/// A lease that nobody renews, and the ledger that counts its loss.
fn counted(grant: Grant) -> (Lease, Arc<Ledger>) {
    kept(
        grant,
        Keeping {
            auto_renew: false,
            ..Keeping::default()
        },
    )
}

fn kept(grant: Grant, keeping: Keeping) -> (Lease, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    (Lease::new(grant, keeping, Arc::clone(&ledger)), ledger)
}

/// Asserts that the lease, its waiters and the counters agree on whether the lease was lost.
async fn assert_lost(lease: &Lease, ledger: &Ledger, is_lost: bool) {
    assert_eq!(lease.loss().is_some(), is_lost, "{:?}", lease.loss());
    assert_eq!(lease.lost().await, lease.loss());
    assert_eq!(ledger.own().counters.get(LockCounter::Losses), u64::from(is_lost));
    assert!(!lease.is_held());
}

/// Runs an acquisition in its own task, which returns whether it succeeded, and after how long.
fn waiting(acquiring: Acquiring) -> tokio::task::JoinHandle<(bool, Duration)> {
    let started = Instant::now();
    tokio::spawn(async move {
        let outcome = acquiring.await;
        let (got_it, waited) = (outcome.is_ok(), started.elapsed());
        match outcome {
            Ok(grant) => grant.keep(),
            Err(error) => assert!(matches!(error, LockError::Timeout { .. }), "{error}"),
        }
        (got_it, waited)
    })
}

fn assert_waited_in_full((got_it, waited): (bool, Duration)) {
    assert!(!got_it);
    assert!(
        waited >= MINUTE && waited <= MINUTE + Duration::from_secs(1),
        "{waited:?}"
    );
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

/// Lets the engine's tasks run until they wait.
async fn others_run() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_handed_over_in_memory_and_the_database_is_told() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let (former, token) = (Arc::clone(&grant.hold.id), grant.won.token);

    let releasing = grant.release();
    let grant = waiter.await.unwrap();
    assert!(grant.hold.is_held());
    assert_eq!(grant.won.token, token + 1);
    others_run().await;
    let told = asked.hand_over();
    assert_eq!((&told.from, &told.id), (&former, &grant.hold.id));
    assert_eq!(told.token, token + 1);
    told.reply.send(Ok(Some(won()))).unwrap();
    assert!(releasing.await.unwrap());
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_is_believed_in_no_longer_than_before_until_the_database_has_answered() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let mut waiter = acquire_for(&engine, MINUTE * 3 / 2, true);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;

    let believed_until = grant.hold.valid_until();
    drop(grant.release());
    let grant = waiter.await.unwrap();
    assert_eq!(grant.hold.valid_until(), believed_until);
    others_run().await;
    asked.hand_over().reply.send(Ok(Some(won()))).unwrap();
    others_run().await;
    assert!(grant.hold.remaining() > MINUTE);
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_has_little_time_left_is_handed_over_by_the_database() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let mut waiter = acquire_for(&engine, MINUTE * 3, true);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let releasing = grant.release();
    others_run().await;
    waits(&mut waiter).await;
    asked.hand_over().reply.send(Ok(Some(won()))).unwrap();
    waiter.await.unwrap().keep();
    assert!(releasing.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_could_not_be_told_of_a_loss_gets_the_lock_when_the_database_has_answered() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let mut waiter = acquire_for(&engine, MINUTE, false);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let mut next = acquire(&engine);
    waits(&mut next).await;

    let releasing = grant.release();
    others_run().await;
    waits(&mut waiter).await;
    asked.hand_over().reply.send(Ok(Some(won()))).unwrap();
    let grant = waiter.await.unwrap();
    assert!(releasing.await.unwrap());
    // The lock is held again: nobody asks for it.
    assert!(asked.is_empty());
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn both_hear_that_a_lock_that_was_handed_over_had_been_lost() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let mut next = acquire(&engine);
    waits(&mut next).await;
    let releasing = grant.release();
    let lease = leased(waiter.await.unwrap());
    assert!(lease.is_held());
    others_run().await;
    asked.hand_over().reply.send(Ok(None)).unwrap();
    assert!(!releasing.await.unwrap());
    assert!(!lease.is_held());
    assert!(lease.lost().await.is_some());
    // The next one in line asks who has it now.
    asked.acquire().held(theirs());
    waits(&mut next).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_before_it_is_received_is_not_believed_in() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let mut next = acquire(&engine);
    waits(&mut next).await;
    drop(grant.release());
    others_run().await;
    asked.hand_over().reply.send(Ok(None)).unwrap();
    others_run().await;
    engine.table().sweep();
    let lease = leased(waiter.await.unwrap());
    assert!(!lease.is_held());
    asked.acquire().won(won());
    let grant = next.await.unwrap();
    assert!(grant.hold.is_held());
    assert!(!lease.is_held());
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn a_lock_on_its_way_is_released_or_renewed_when_it_has_arrived() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    drop(grant.release());
    let lease = leased(waiter.await.unwrap());
    others_run().await;
    let told = asked.hand_over();
    let renewing = tokio::spawn(lease.renew(None));
    let mut releasing = Box::pin(lease.release());
    others_run().await;
    assert!(asked.is_empty());

    told.reply.send(Ok(Some(won()))).unwrap();
    others_run().await;
    let released = asked.release();
    assert!(matches!(&released.target, ReleaseTarget::Row { id, .. } if *id == told.id));
    released.reply.send(Ok(true)).unwrap();
    assert!(releasing.as_mut().await.unwrap());
    assert!(renewing.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lock_goes_on_when_it_has_arrived_and_its_holder_has_done_already() {
    let (engine, asked) = engine();
    let (grant, first) = held_and_waited_for(&engine, &asked).await;
    let mut second = acquire(&engine);
    waits(&mut second).await;
    drop(grant.release());
    drop(first.await.unwrap().release());
    others_run().await;
    let told = asked.hand_over();
    waits(&mut second).await;
    let token = told.token;
    told.reply.send(Ok(Some(won()))).unwrap();
    let grant = second.await.unwrap();
    assert_eq!(grant.won.token, token + 1);
    others_run().await;
    assert_eq!(asked.hand_over().from, told.id);
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn the_database_is_told_again_when_it_has_failed() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let releasing = grant.release();
    let grant = waiter.await.unwrap();
    others_run().await;
    let failed = asked.hand_over();
    failed
        .reply
        .send(Err(StoreError::unknown_outcome("cut")))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = asked.hand_over();
    assert_eq!(
        (again.from, again.id, again.token),
        (failed.from, failed.id, failed.token)
    );
    again.reply.send(Ok(Some(won()))).unwrap();
    assert!(releasing.await.unwrap());
    assert!(grant.hold.is_held());
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_which_the_database_was_never_told_ends_with_its_predecessors_time() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let former = Arc::clone(&grant.hold.id);
    let releasing = grant.release();
    let lease = leased(waiter.await.unwrap());
    others_run().await;
    let told = asked.hand_over();
    told.reply
        .send(Err(StoreError::permanent("no such right")))
        .unwrap();
    assert!(matches!(releasing.await, Err(LockError::Backend { .. })));
    others_run().await;
    // Its predecessor's row still keeps others out.
    assert!(lease.is_held());
    assert!(asked.is_empty());
    let releasing = lease.release();
    let mut deleted = vec![asked.release()];
    others_run().await;
    deleted.extend(asked.releases());
    let rows: Vec<_> = deleted.iter().map(|release| release.target.clone()).collect();
    for row in [former, told.id] {
        assert!(
            rows.iter()
                .any(|target| matches!(target, ReleaseTarget::Row { id, .. } if *id == row))
        );
    }
    for release in deleted {
        let _ = release.reply.send(Ok(true));
    }
    let _ = releasing.await;
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
        others_run().await;
        match asked.next() {
            Request::HandOver(told) => {
                told.reply.send(Ok(Some(won()))).unwrap();
                handed_over += 1;
            }
            Request::Release(release) => {
                assert_eq!(handed_over, 16);
                (handed_over, releases) = (0, releases + 1);
                release.reply.send(Ok(true)).unwrap();
            }
            _ => panic!("asked for what is held"),
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

    from_store(&engine).changed(key_hash("k"));
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn news_that_comes_while_the_database_is_asked_is_not_lost() {
    let (engine, asked) = engine();
    let mut waiter = acquire(&engine);
    let looked_too_early = asked.acquire();
    from_store(&engine).changed(key_hash("k"));
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
    let grant = held(&engine, &asked).await;
    let mut waiter = acquire_for(&engine, MINUTE, false);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let releasing = grant.release();
    others_run().await;
    asked.hand_over().reply.send(Ok(None)).unwrap();
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
    let grant = held(&engine, &asked).await;
    let mut waiter = acquire_for(&engine, MINUTE, false);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let releasing = grant.release();
    others_run().await;
    let told = asked.hand_over();
    drop(waiter);
    told.reply.send(Ok(Some(won()))).unwrap();
    releasing.await.unwrap();
    others_run().await;
    let undone = asked.release();
    assert!(matches!(&undone.target, ReleaseTarget::Row { id, .. } if *id == told.id));
    undone.reply.send(Ok(true)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gave_up_when_the_lock_had_come_to_it_passes_it_on() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    let mut next = acquire(&engine);
    waits(&mut next).await;
    let releasing = grant.release();
    drop(waiter); // has the lock, and has not been told
    others_run().await;
    let told = asked.hand_over();
    told.reply.send(Ok(Some(won()))).unwrap();
    assert!(releasing.await.unwrap());
    let grant = next.await.unwrap();
    others_run().await;
    assert_eq!(asked.hand_over().from, told.id);
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_drops_a_lock_on_its_way_deletes_it_when_it_has_arrived() {
    let (engine, asked) = engine();
    let (grant, waiter) = held_and_waited_for(&engine, &asked).await;
    drop(grant.release());
    drop(waiter.await.unwrap());
    others_run().await;
    let told = asked.hand_over();
    assert!(asked.is_empty());
    told.reply.send(Ok(Some(won()))).unwrap();
    others_run().await;
    let undone = asked.release();
    assert!(matches!(&undone.target, ReleaseTarget::Row { id, .. } if *id == told.id));
    undone.reply.send(Ok(true)).unwrap();
    others_run().await;
    assert!(!engine.in_use());
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
        id: grant.hold.id.to_string(),
        ..theirs().unwrap()
    };
    let lease = leased(grant);
    let mut waiter = acquire(&engine);
    asked.acquire().held(Some(ours));
    waits(&mut waiter).await;
    for (ttl, is_shortened) in [(MINUTE * 2, false), (MINUTE / 2, true)] {
        let renewing = tokio::spawn(lease.renew(Some(ttl)));
        others_run().await;
        asked.renew().reply.send(Ok(Some(60.0))).unwrap();
        renewing.await.unwrap().unwrap();
        assert_eq!(asked.is_empty(), !is_shortened);
    }
    asked.acquire().won(won());
    waiter.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn all_wait_for_the_whole_of_their_time_while_a_lock_is_kept_beyond_its_first_end() {
    for (allows_optimistic_handoff, other_manager) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let (engine, asked) = engine();
        // A hold is measured on the clock of the machine, which is not paused. So the hold does not
        // expire, as if its holder renewed it.
        let holder = acquire_for(&engine, MINUTE / 6, true);
        asked.acquire().won(won());
        let grant = holder.await.unwrap();
        let ours = LockRow {
            id: grant.hold.id.to_string(),
            ..theirs().unwrap()
        };
        let waiters: Vec<_> = [0, other_manager, other_manager]
            .map(|manager| {
                waiting(acquire_by(
                    &engine,
                    manager,
                    MINUTE / 6,
                    allows_optimistic_handoff,
                ))
            })
            .into();
        asked.acquire().held(Some(ours));
        tokio::time::sleep(MINUTE / 2).await;
        assert_eq!(engine.waiting().len(), 3);
        for waiter in waiters {
            assert_waited_in_full(waiter.await.unwrap());
        }
        assert!(grant.hold.is_held());
        grant.keep();
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_the_first_waits_on_when_the_first_gets_a_lock_that_was_never_released() {
    let (engine, asked) = engine();
    let holder = acquire_for(&engine, MINUTE / 6, false);
    asked.acquire().won(won());
    let forgotten = holder.await.unwrap();
    let hold = Arc::clone(&forgotten.hold);
    forgotten.keep();
    let mut waiters: Vec<_> = (0..4)
        .map(|_| waiting(acquire_for(&engine, MINUTE * 10, false)))
        .collect();
    others_run().await;
    asked.acquire().held(Some(LockRow {
        id: hold.id.to_string(),
        ..theirs().unwrap()
    }));
    others_run().await;
    expires_now(&engine, &hold);
    engine.on(&hold.key, Event::MayBeFree); // as the timer of the first waiter, or the poller, does
    asked.acquire().won(won());
    assert!(waiters.remove(0).await.unwrap().0);
    tokio::time::sleep(MINUTE / 2).await;
    assert_eq!(engine.waiting().len(), 3);
    for waiter in waiters {
        assert_waited_in_full(waiter.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_asks_for_a_lock_that_was_never_released_at_its_end() {
    let (engine, asked) = engine();
    let holder = acquire_for(&engine, MINUTE / 6, false);
    asked.acquire().won(won());
    let grant = holder.await.unwrap();
    let hold = Arc::clone(&grant.hold);
    grant.keep();
    let first = waiting(acquire_for(&engine, MINUTE, false));
    let second = waiting(acquire_for(&engine, MINUTE, false));
    asked.acquire().held(Some(LockRow {
        id: hold.id.to_string(),
        ..theirs().unwrap()
    }));
    others_run().await;
    expires_now(&engine, &hold);
    tokio::time::sleep(MINUTE / 5).await;
    asked.acquire().won(won());
    let (got_it, waited) = first.await.unwrap();
    assert!(got_it && waited < MINUTE / 4, "{waited:?}");
    assert_waited_in_full(second.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_becomes_the_first_when_the_lock_has_just_ended_asks_for_it_at_once() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let hold = Arc::clone(&grant.hold);
    grant.keep();
    let mut first = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut first).await;
    let mut second = acquire(&engine);
    waits(&mut second).await;
    drop(first);
    expires_now(&engine, &hold);
    let second = waiting(second);
    tokio::time::sleep(Duration::from_millis(5)).await;
    asked.acquire().won(won());
    assert!(second.await.unwrap().0);
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_answer_waits_no_longer_than_a_second_beyond_its_time() {
    let (engine, asked) = engine();
    let started = Instant::now();
    let waiter = tokio::spawn(acquire(&engine));
    asked.acquire().held(theirs());
    tokio::time::sleep(MINUTE + Duration::from_millis(5)).await;
    let unanswered = asked.acquire();
    assert!(matches!(waiter.await.unwrap(), Err(LockError::Backend { .. })));
    assert!(started.elapsed() >= MINUTE && started.elapsed() < MINUTE + Duration::from_secs(1));
    drop(unanswered);
}

#[tokio::test(start_paused = true)]
async fn an_odd_expiry_is_waited_for_in_full_and_tells_no_time() {
    for (expires_at, expires_in) in [
        (f64::NAN, f64::NAN),
        (f64::INFINITY, f64::INFINITY),
        (1e300, 1e300),
        (9e12, 9e12),
    ] {
        let (engine, asked) = engine();
        let waiter = waiting(acquire(&engine));
        asked.acquire().held(Some(LockRow {
            expires_at,
            expires_in,
            ..theirs().unwrap()
        }));
        assert_eq!(engine.clock.now(), None);
        let last = tokio::spawn({
            let asked = asked.clone();
            async move {
                tokio::time::sleep(MINUTE).await;
                others_run().await;
                asked.acquire().held(theirs());
            }
        });
        assert_waited_in_full(waiter.await.unwrap());
        last.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_the_release_finds_is_one() {
    let (engine, asked) = engine();
    let (lease, ledger) = counted(held(&engine, &asked).await);
    let watching = tokio::spawn(lease.lost());
    others_run().await;
    let releasing = tokio::spawn(lease.release());
    others_run().await;
    assert!(!watching.is_finished());
    // The first try was not carried out.
    asked
        .release()
        .reply
        .send(Err(StoreError::transient("busy")))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.release().reply.send(Ok(false)).unwrap();
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, true).await;
    assert_eq!(watching.await.unwrap(), lease.loss());
    assert!(!lease.release().await.unwrap());
    assert_lost(&lease, &ledger, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_an_unanswered_release_may_have_deleted_was_not_lost() {
    let (engine, asked) = engine();
    let (lease, ledger) = counted(held(&engine, &asked).await);
    let releasing = tokio::spawn(lease.release());
    others_run().await;
    let cut = Err(StoreError::unknown_outcome("cut"));
    asked.release().reply.send(cut).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.release().reply.send(Ok(false)).unwrap();
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, false).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_released_by_name_was_not_lost() {
    let (engine, asked) = engine();
    let (lease, ledger) = counted(held(&engine, &asked).await);
    let Known::Held(hold) = engine.hold_of(&"k".into(), "holder") else {
        panic!("not known")
    };
    let by_name = hold.release(&engine);
    asked.release().reply.send(Ok(true)).unwrap();
    assert!(by_name.await.unwrap());
    let releasing = lease.release();
    asked.release().reply.send(Ok(false)).unwrap();
    assert!(!releasing.await.unwrap());
    assert_lost(&lease, &ledger, false).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_database_to_release_what_is_lost() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let hold = Arc::clone(&grant.hold);
    let (lease, ledger) = counted(grant);
    expires_now(&engine, &hold);
    assert!(lease.loss().is_some());
    assert!(!lease.release().await.unwrap());
    others_run().await;
    assert!(!asked.releases().is_empty());
    assert_lost(&lease, &ledger, true).await;
}

/// Releases a lease while another acquisition waits. The lock is handed over in memory if the
/// waiter acquires a lease, too.
async fn released_to_a_waiter(
    allows_optimistic_handoff: bool,
) -> (
    (Lease, Arc<Ledger>),
    Acquiring,
    tokio::task::JoinHandle<Result<bool, LockError>>,
    Asked,
) {
    let (engine, asked) = engine();
    let (lease, ledger) = counted(held(&engine, &asked).await);
    let mut waiter = acquire_for(&engine, MINUTE, allows_optimistic_handoff);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let releasing = tokio::spawn(lease.release());
    others_run().await;
    ((lease, ledger), waiter, releasing, asked)
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_finds_the_lock_gone_is_a_loss_for_both_and_one_each() {
    let ((lease, ledger), waiter, releasing, asked) = released_to_a_waiter(true).await;
    let (next, next_ledger) = counted(waiter.await.unwrap());
    asked.hand_over().reply.send(Ok(None)).unwrap();
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, true).await;
    assert_lost(&next, &next_ledger, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_may_have_been_carried_out_is_no_loss_for_who_released() {
    let ((lease, ledger), waiter, releasing, asked) = released_to_a_waiter(true).await;
    let (next, next_ledger) = counted(waiter.await.unwrap());
    let cut = Err(StoreError::unknown_outcome("cut"));
    asked.hand_over().reply.send(cut).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.hand_over().reply.send(Ok(None)).unwrap();
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, false).await;
    assert_lost(&next, &next_ledger, true).await;
}

#[tokio::test(start_paused = true)]
async fn who_released_a_lock_on_its_way_learns_that_it_had_gone() {
    for (answer, is_lost) in [
        (Ok(None), true),
        (Err(StoreError::permanent("no such right")), false),
    ] {
        let (_, waiter, _, asked) = released_to_a_waiter(true).await;
        let (next, ledger) = counted(waiter.await.unwrap());
        let releasing = tokio::spawn(next.release());
        others_run().await;
        asked.hand_over().reply.send(answer).unwrap();
        others_run().await;
        for release in asked.releases() {
            let _ = release.reply.send(Ok(false));
        }
        assert!(!releasing.await.unwrap().unwrap());
        assert_lost(&next, &ledger, is_lost).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_by_the_database_that_finds_the_lock_gone_is_a_loss() {
    let cut = StoreError::unknown_outcome("cut");
    let busy = StoreError::transient("busy");
    for (answer, is_lost) in [(Ok(None), true), (Err(cut), false), (Err(busy), true)] {
        let ((lease, ledger), waiter, releasing, asked) = released_to_a_waiter(false).await;
        let has_failed = answer.is_err();
        asked.hand_over().reply.send(answer).unwrap();
        others_run().await;
        if has_failed {
            asked.release().reply.send(Ok(false)).unwrap();
        }
        assert!(!releasing.await.unwrap().unwrap());
        assert_lost(&lease, &ledger, is_lost).await;
        drop(waiter);
    }
}

/// One who waits ten minutes, in a task of its own.
fn patient(engine: &Arc<Engine>) -> tokio::task::JoinHandle<Grant> {
    let acquiring = engine.acquire(request(MINUTE * 10), Arc::new(Ledger::default()));
    tokio::spawn(async move { acquiring.await.unwrap() })
}

/// The time when a waiter that is not polled has just lost its place, which it had until then.
async fn until_removed(engine: &Arc<Engine>, asked: &Asked) {
    let waiting = engine.waiting().len();
    tokio::time::sleep(MINUTE + Duration::from_millis(900)).await;
    assert_eq!(engine.waiting().len(), waiting);
    assert!(asked.is_empty());
    tokio::time::sleep(Duration::from_millis(110)).await;
    assert!(engine.waiting().len() < waiting);
}

async fn assert_timed_out(waiter: Acquiring) {
    assert!(matches!(waiter.await, Err(LockError::Timeout { .. })));
}

/// The requests since the last time: for rows that are released, and the acquisitions.
fn released_and_wanted(asked: &Asked) -> (Vec<Arc<str>>, Vec<Acquire>) {
    let (mut released, mut wanted) = (Vec::new(), Vec::new());
    for request in std::mem::take(&mut *asked.0.lock().unwrap()) {
        match request {
            Request::Release(Release {
                target: ReleaseTarget::Row { id, .. },
                reply,
                ..
            }) => {
                released.push(id);
                reply.send(Ok(true)).unwrap();
            }
            Request::Acquire(acquire) => wanted.push(acquire),
            _ => panic!("neither a release nor an acquisition"),
        }
    }
    (released, wanted)
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_not_polled_loses_its_place_after_its_time() {
    let (engine, asked) = engine();
    let mut stuck = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut stuck).await;
    let behind = [acquire(&engine), acquire(&engine)];
    let next = patient(&engine);
    until_removed(&engine, &asked).await;
    asked.acquire().won(won());
    next.await.unwrap().keep();
    assert_timed_out(stuck).await;
    for waiter in behind {
        assert_timed_out(waiter).await;
    }
    assert!(asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiters_that_were_never_polled_are_removed_together_and_who_polls_is_served() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let stuck: Vec<_> = (0..3).map(|_| acquire(&engine)).collect();
    asked.acquire().held(theirs());
    let next = patient(&engine);
    let others: Vec<_> = (0..3).map(|_| acquire(&engine)).collect();
    tokio::time::sleep(MINUTE * 2).await;
    assert_eq!(engine.waiting().len(), 1);
    assert!(asked.is_empty());
    drop(grant.release());
    others_run().await;
    asked.hand_over().reply.send(Ok(Some(won()))).unwrap();
    let grant = next.await.unwrap();
    for waiter in stuck.into_iter().chain(others) {
        assert_timed_out(waiter).await;
    }
    grant.keep();
    assert!(asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_an_unanswered_request_of_a_removed_waiter_wins_is_released() {
    let (engine, asked) = engine();
    let mut stuck = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut stuck).await;
    engine.on(&"k".into(), Event::MayBeFree);
    let late = asked.acquire();
    let row = Arc::clone(&late.claim.id);
    let next = patient(&engine);
    until_removed(&engine, &asked).await;
    let wanted = asked.acquire();
    late.won(won());
    others_run().await;
    assert_eq!(released_and_wanted(&asked).0, [row]);
    wanted.won(won());
    next.await.unwrap().keep();
    assert!(matches!(stuck.await, Err(LockError::Backend { .. })));
    others_run().await;
    assert!(engine.abandoned_rows() == 0 && asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_won_and_is_not_picked_up_is_released() {
    for is_polled in [false, true] {
        let (engine, asked) = engine();
        let mut stuck = acquire(&engine);
        let mut wanted = asked.acquire();
        if is_polled {
            wanted.held(theirs());
            waits(&mut stuck).await;
            engine.on(&"k".into(), Event::MayBeFree);
            wanted = asked.acquire();
        }
        let row = Arc::clone(&wanted.claim.id);
        wanted.won(won());
        let next = patient(&engine);
        until_removed(&engine, &asked).await;
        let (released, mut wanted) = released_and_wanted(&asked);
        assert_eq!(released, [row]);
        wanted.remove(0).won(won());
        next.await.unwrap().keep();
        assert_timed_out(stuck).await;
        others_run().await;
        assert_eq!(engine.abandoned_rows(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_won_in_time_can_be_picked_up_a_little_later() {
    let (engine, asked) = engine();
    let acquiring = acquire(&engine);
    asked.acquire().won(won());
    tokio::time::sleep(MINUTE + Duration::from_millis(900)).await;
    acquiring.await.unwrap().keep();
    tokio::time::sleep(MINUTE).await;
    assert!(asked.is_empty());
    assert_eq!(engine.held_and_waiting(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_over_in_memory_and_is_not_picked_up_goes_to_the_next() {
    let (engine, asked) = engine();
    let (grant, stuck) = held_and_waited_for(&engine, &asked).await;
    let next = patient(&engine);
    drop(grant.release());
    others_run().await;
    let told = asked.hand_over();
    let row = Arc::clone(&told.id);
    told.reply.send(Ok(Some(won()))).unwrap();
    until_removed(&engine, &asked).await;
    let told = asked.hand_over();
    assert_eq!(told.from, row);
    told.reply.send(Ok(Some(won()))).unwrap();
    next.await.unwrap().keep();
    assert_timed_out(stuck).await;
    assert!(asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_database_handed_over_and_is_not_picked_up_is_released() {
    for is_told_late in [false, true] {
        let (engine, asked) = engine();
        let grant = held(&engine, &asked).await;
        let mut stuck = acquire_for(&engine, MINUTE, false);
        asked.acquire().held(theirs());
        waits(&mut stuck).await;
        let next = patient(&engine);
        drop(grant.release());
        others_run().await;
        let told = asked.hand_over();
        let row = Arc::clone(&told.id);
        let mut reply = Some(told.reply);
        if !is_told_late {
            reply.take().unwrap().send(Ok(Some(won()))).unwrap();
        }
        until_removed(&engine, &asked).await;
        if let Some(reply) = reply {
            reply.send(Ok(Some(won()))).unwrap();
            others_run().await;
        }
        let (released, mut wanted) = released_and_wanted(&asked);
        assert_eq!(released, [row]);
        others_run().await;
        wanted.extend(released_and_wanted(&asked).1);
        wanted.remove(0).won(won());
        next.await.unwrap().keep();
        assert!(stuck.await.is_err());
        others_run().await;
        assert_eq!(engine.abandoned_rows(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_removed_waiter_may_have_won_is_released() {
    for is_polled in [false, true] {
        let (engine, asked) = engine();
        let mut stuck = acquire(&engine);
        let wanted = asked.acquire();
        let row = Arc::clone(&wanted.claim.id);
        wanted.failed(StoreError::unknown_outcome("cut"));
        if is_polled {
            waits(&mut stuck).await;
        }
        let next = patient(&engine);
        until_removed(&engine, &asked).await;
        let (released, mut wanted) = released_and_wanted(&asked);
        assert_eq!(released, [row]);
        wanted.remove(0).won(won());
        next.await.unwrap().keep();
        assert!(matches!(stuck.await, Err(LockError::Backend { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_not_handed_over_to_a_waiter_whose_time_is_over() {
    for allows_optimistic_handoff in [false, true] {
        let (engine, asked) = engine();
        let grant = held(&engine, &asked).await;
        let mut stuck = acquire_for(&engine, MINUTE, allows_optimistic_handoff);
        asked.acquire().held(theirs());
        waits(&mut stuck).await;
        let behind = acquire(&engine);
        let next = patient(&engine);
        tokio::time::sleep(MINUTE + Duration::from_millis(5)).await;
        drop(grant.release());
        let grant = next.await.unwrap();
        others_run().await;
        let told = asked.hand_over();
        assert_eq!(told.id, grant.hold.id);
        told.reply.send(Ok(Some(won()))).unwrap();
        assert!(engine.waiting().is_empty());
        for waiter in [stuck, behind] {
            assert_timed_out(waiter).await;
        }
        grant.keep();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_of_a_waiter_that_is_not_polled() {
    let (engine, asked) = engine();
    let alone = acquire(&engine);
    asked.acquire().held(theirs());
    tokio::time::sleep(MINUTE * 2).await;
    assert!(engine.waiting().is_empty() && !engine.in_use() && asked.is_empty());
    // A later one is removed likewise.
    let later = acquire(&engine);
    asked.acquire().won(won());
    tokio::time::sleep(MINUTE * 2).await;
    assert_eq!(asked.releases().len(), 1);
    assert_timed_out(alone).await;
    assert_timed_out(later).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_due_before_the_others_is_removed_before_them() {
    let (engine, asked) = engine();
    let long = patient(&engine);
    asked.acquire().held(Some(LockRow {
        expires_in: 600.0,
        ..theirs().unwrap()
    }));
    others_run().await;
    let short = acquire(&engine);
    until_removed(&engine, &asked).await;
    assert_timed_out(short).await;
    long.abort();
}

#[tokio::test(start_paused = true)]
async fn every_operation_says_until_when_its_asker_waits() {
    let (engine, asked) = engine();
    let now = Instant::now();
    let acquiring = acquire(&engine);
    let request = asked.acquire();
    assert_eq!(request.until, now + MINUTE + key::GRACE);
    request.won(won());
    let lease = leased(acquiring.await.unwrap());
    let renewing = tokio::spawn(lease.renew(None));
    others_run().await;
    let renewal = asked.renew();
    assert!(renewal.until <= now + MINUTE && renewal.until > now + MINUTE / 2);
    renewal.reply.send(Ok(Some(60.0))).unwrap();
    renewing.await.unwrap().unwrap();
    let releasing = lease.release();
    let release = asked.release();
    assert_eq!(release.until, Instant::now() + RELEASE_PATIENCE);
    release.reply.send(Ok(true)).unwrap();
    releasing.await.unwrap();
}

/// The next request within so many seconds, which has to be a release.
async fn next_release(asked: &Asked, seconds: u64) -> Release {
    for _ in 0..seconds * 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if !asked.is_empty() {
            return asked.release();
        }
    }
    panic!("no release within {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_was_refused_is_carried_out_when_its_cause_is_gone() {
    let (engine, asked) = engine();
    let releasing = tokio::spawn(held(&engine, &asked).await.release());
    let refused = || Err(StoreError::permanent("no such right"));
    let mut tries = 0;
    let started = Instant::now();
    loop {
        let release = next_release(&asked, 60).await;
        tries += 1;
        if started.elapsed() > MINUTE {
            release.reply.send(Ok(true)).unwrap();
            break;
        }
        release.reply.send(refused()).unwrap();
    }
    assert!(matches!(releasing.await.unwrap(), Err(LockError::Backend { .. })));
    assert!((5..20).contains(&tries), "{tries}");
    // A refused release keeps nobody from ending the process.
    assert!(!engine.in_use());
    tokio::time::sleep(MINUTE * 20).await;
    assert!(asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_in_doubt_is_deleted_for_as_long_as_its_row_would_last() {
    // Released after a later try had won, or abandoned.
    for is_released in [true, false] {
        let (engine, asked) = engine();
        let mut acquiring = acquire(&engine);
        let first = asked.acquire();
        let row = Arc::clone(&first.claim.id);
        first.failed(StoreError::unknown_outcome("cut"));
        waits(&mut acquiring).await;
        if is_released {
            let acquiring = tokio::spawn(acquiring);
            tokio::time::sleep(Duration::from_millis(50)).await;
            asked.acquire().won(won());
            let releasing = tokio::spawn(acquiring.await.unwrap().unwrap().release());
            next_release(&asked, 1).await.reply.send(Ok(true)).unwrap();
            releasing.await.unwrap().unwrap();
        } else {
            drop(acquiring);
            next_release(&asked, 1).await.reply.send(Ok(true)).unwrap();
        }
        for looks in 0..5 {
            let look = next_release(&asked, 30).await;
            assert!(matches!(&look.target, ReleaseTarget::Row { id, .. } if *id == row));
            // The first row that is found need not be the last.
            look.reply.send(Ok(looks == 0)).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_answered_after_the_end_is_no_loss() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let hold = Arc::clone(&grant.hold);
    let (lease, ledger) = counted(grant);
    let releasing = tokio::spawn(lease.release());
    others_run().await;
    let busy = Err(StoreError::transient("busy"));
    asked.release().reply.send(busy).unwrap();
    expires_now(&engine, &hold);
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.release().reply.send(Ok(false)).unwrap();
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, false).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_off_and_never_reached_the_database_is_not_handed_off_again() {
    let (_, waiter, releasing, asked) = released_to_a_waiter(true).await;
    let grant = waiter.await.unwrap();
    let engine = Arc::clone(&grant.engine);
    let (lease, ledger) = counted(grant);
    let hand_over = asked.hand_over();
    let refused = Err(StoreError::permanent("no such right"));
    hand_over.reply.send(refused).unwrap();
    assert!(releasing.await.unwrap().is_err());
    let mut third = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut third).await;

    let releasing = tokio::spawn(lease.release());
    others_run().await;
    let mut released = Vec::new();
    for release in asked.releases() {
        if let ReleaseTarget::Row { id, .. } = release.target {
            released.push(id);
        }
        release.reply.send(Ok(false)).unwrap();
    }
    assert!(released.contains(&hand_over.from) && released.contains(&hand_over.id));
    assert!(!releasing.await.unwrap().unwrap());
    assert_lost(&lease, &ledger, false).await;
    others_run().await;
    asked.acquire().won(won());
    third.await.unwrap().keep();
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_row_has_gone_is_lost_within_a_second_whatever_its_time_to_live() {
    let theirs = || theirs().into_iter().collect::<Vec<_>>();
    let ours = |id: &str| {
        let mut rows = theirs();
        rows[0].id = id.to_owned();
        rows
    };
    for (rows, is_checked, is_lost) in [
        (Some(Vec::new()), true, true),
        (Some(theirs()), true, true),
        (Some(Vec::new()), false, false),
        (None, true, false),
    ] {
        let (engine, asked) = engine();
        let grant = held(&engine, &asked).await;
        asked.1.lock().unwrap().rows = Some(ours(&grant.hold.id));
        let keeping = Keeping {
            auto_renew: false,
            loss_check: is_checked.then_some(Duration::from_secs(1)),
            ..Keeping::default()
        };
        let (lease, ledger) = kept(grant, keeping);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(lease.is_held());
        asked.1.lock().unwrap().rows = rows;
        let within = tokio::time::timeout(Duration::from_secs(1), lease.lost()).await;
        assert_eq!(within.is_ok(), is_lost);
        if is_lost {
            assert_lost(&lease, &ledger, true).await;
        } else {
            assert!(lease.is_held());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_deletes_a_row_that_is_being_handed_off() {
    let (engine, asked) = engine();
    // Its first try may yet be carried out.
    let acquiring = tokio::spawn(acquire(&engine));
    asked.acquire().failed(StoreError::unknown_outcome("cut"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    asked.acquire().won(won());
    let lease = leased(acquiring.await.unwrap().unwrap());
    engine.clock.heard(100.0, BootTime::now());
    let mut waiter = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    let Known::Held(hold) = engine.hold_of(&"k".into(), "holder") else {
        panic!("not known")
    };
    let by_name = tokio::spawn(hold.release(&engine));
    let grant = waiter.await.unwrap();
    others_run().await;
    let hand_over = asked.hand_over();
    assert!(!lease.release().await.unwrap());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(asked.is_empty() && grant.hold.is_held());
    hand_over.reply.send(Ok(Some(won()))).unwrap();
    assert!(by_name.await.unwrap().unwrap());
    // Now the row has another id, and only a late one has that of the first.
    let look = next_release(&asked, 1).await;
    assert!(matches!(look.target, ReleaseTarget::Row { id, .. } if id == hand_over.from));
    grant.keep();
}

#[tokio::test(start_paused = true)]
async fn the_engine_goes_with_its_tasks_when_nobody_waits_any_more() {
    let (engine, asked) = engine();
    asked.1.lock().unwrap().rows = Some(theirs().into_iter().collect());
    let mut waiter = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let looks = || asked.1.lock().unwrap().count;
    assert!(looks() > 5);
    drop(waiter);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at_last = looks();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(looks(), at_last);

    let weak = Arc::downgrade(&engine);
    drop(engine);
    assert!(weak.upgrade().is_none());
    others_run().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_store_looks_out_for_a_lock_while_somebody_waits_for_it() {
    let (engine, asked) = engine();
    let watched = || asked.1.lock().unwrap().watched.clone();
    let mut waiter = acquire(&engine);
    asked.acquire().held(theirs());
    waits(&mut waiter).await;
    assert_eq!(watched(), ["k"]);
    drop(waiter);
    assert!(watched().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_dropped_is_released_by_that_and_its_row_is_waited_for() {
    let (engine, asked) = engine();
    let grant = held(&engine, &asked).await;
    let hold = Arc::clone(&grant.hold);
    drop(grant);
    assert!(!hold.is_held());
    let release = asked.release();
    assert_eq!((engine.abandoned_rows(), engine.in_use()), (1, true));
    let releasing = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.release_held(None, MINUTE).await }
    });
    others_run().await;
    assert!(!releasing.is_finished());
    release.reply.send(Ok(true)).unwrap();
    others_run().await;
    assert_eq!((engine.abandoned_rows(), engine.in_use()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn what_has_been_released_is_past() {
    let (engine, asked) = engine();
    let releasing = held(&engine, &asked).await.release();
    let known = || engine.hold_of(&"k".into(), "holder");
    assert!(matches!(known(), Known::Held(_)));
    asked.release().reply.send(Ok(true)).unwrap();
    assert!(releasing.await.unwrap());
    assert!(matches!(known(), Known::Past));
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_over_in_memory_expires_with_its_predecessor_or_after_its_own_time() {
    for ttl in [MINUTE / 2, MINUTE * 3 / 2] {
        let (engine, asked) = engine();
        let grant = held(&engine, &asked).await;
        let mut waiter = acquire_for(&engine, ttl, true);
        asked.acquire().held(theirs());
        waits(&mut waiter).await;
        drop(grant.release());
        let grant = waiter.await.unwrap();
        let own = grant.won.acquired_at + ttl.as_secs_f64();
        assert_eq!(grant.won.expires_at, own.min(won().expires_at));
        assert_eq!(grant.hold.expires_at(), grant.won.expires_at);
        grant.keep();
    }
}

#[tokio::test(start_paused = true)]
async fn who_renews_is_told_when_the_row_expires() {
    let (engine, asked) = engine();
    let lease = leased(held(&engine, &asked).await);
    assert_eq!(lease.expires_at(), 60.0);
    let renewing = tokio::spawn(lease.renew(None));
    others_run().await;
    asked.renew().reply.send(Ok(Some(70.0))).unwrap();
    assert_eq!(renewing.await.unwrap().unwrap(), 70.0);
    assert_eq!(lease.expires_at(), 70.0);
}

#[tokio::test(start_paused = true)]
async fn what_perhaps_never_reached_the_database_is_deleted_by_who_left_while_it_was_on_its_way() {
    let (engine, asked) = engine();
    let (grant, first) = held_and_waited_for(&engine, &asked).await;
    let mut second = acquire(&engine);
    waits(&mut second).await;
    drop(grant.release());
    drop(first.await.unwrap().release());
    others_run().await;
    let hand_over = asked.hand_over();
    let refused = Err(StoreError::permanent("no such right"));
    hand_over.reply.send(refused).unwrap();
    others_run().await;
    let (released, mut wanted) = released_and_wanted(&asked);
    assert!(released.contains(&hand_over.from) && released.contains(&hand_over.id));
    others_run().await;
    wanted.extend(released_and_wanted(&asked).1);
    wanted.remove(0).won(won());
    second.await.unwrap().keep();
}

#[test]
fn as_many_acquisitions_are_remembered_as_was_said() {
    let mut ended = holds::Tombstones::default();
    for number in 0..holds::REMEMBERED {
        ended.insert("k", &number.to_string());
    }
    assert!(ended.contains("k", "0"));
    ended.insert("k", "one more");
    assert!(!ended.contains("k", "0"));
    assert!(ended.contains("k", "1") && ended.contains("k", "one more"));
}
