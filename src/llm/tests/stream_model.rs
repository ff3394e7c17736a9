//! Any sequence of operations on a stream, against a model of it.
//!
//! The server is a channel in the place of a connection, and time stands still until an operation
//! lets it pass, so every case is exact: no piece is lost, none comes twice, a stream that broke
//! never ends as if it were complete, and its request is open exactly as long as it should be.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::server::{finish, piece, texts};
use crate::figures::{CountedCall, Totals};
use crate::llm::attempt::Opened;
use crate::llm::body::Body;
use crate::llm::read_ahead::{Closing, GRACE};
use crate::llm::stream::ChatStream;
use crate::llm::under_way::UnderWay;
use crate::llm::{Batch, CallOptions, Error, Loop, ReadAhead, Shape};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    /// `[DONE]`.
    Done,
    /// A `finish_reason`, then an orderly close.
    Finished,
    /// An orderly close, too early.
    Cut,
    /// The connection breaks.
    Broken,
}

#[derive(Debug, Clone)]
enum Step {
    /// The server sends so many pieces in one part.
    Send(usize),
    /// The server sends the next piece in two parts.
    SendInParts,
    End(Ending),
    /// A task begins to wait for a batch.
    Wait,
    /// A wait is cut short.
    CancelWait(usize),
    /// A wait ends at once, and its result, if there is one, never reaches the caller.
    LoseDelivery,
    Iterate,
    /// A loop ends.
    EndLoop(usize),
    /// An exception leaves a loop.
    LeaveLoop(usize),
    /// So many tenths of the grace period pass.
    Pass(u32),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        Just(Ending::Done),
        Just(Ending::Finished),
        Just(Ending::Cut),
        Just(Ending::Broken)
    ];
    prop_oneof![
        4 => (1_usize..4).prop_map(Step::Send),
        1 => Just(Step::SendInParts),
        1 => ending.prop_map(Step::End),
        6 => Just(Step::Wait),
        4 => any::<usize>().prop_map(Step::CancelWait),
        3 => Just(Step::LoseDelivery),
        2 => Just(Step::Iterate),
        1 => any::<usize>().prop_map(Step::EndLoop),
        2 => any::<usize>().prop_map(Step::LeaveLoop),
        4 => (1_u32..15).prop_map(Step::Pass),
        1 => Just(Step::Close),
    ]
}

type Part = Result<Bytes, io::Error>;

/// The server's side of the one connection.
struct Server {
    parts: Option<mpsc::UnboundedSender<Part>>,
    sent: usize,
    ending: Option<Ending>,
}

impl Server {
    fn send(&mut self, part: String) {
        if let Some(parts) = &self.parts {
            let _ = parts.send(Ok(part.into()));
        }
    }

    fn next_piece(&mut self) -> String {
        self.sent += 1;
        piece(&format!("{},", self.sent))
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Done => self.send("data: [DONE]\n\n".to_owned()),
            Ending::Finished => self.send(finish()),
            Ending::Cut => {}
            Ending::Broken => {
                if let Some(parts) = &self.parts {
                    let _ = parts.send(Err(io::Error::other("the cable was cut")));
                }
            }
        }
        self.parts = None;
        self.ending = Some(ending);
    }

    /// Whether the client still has the request open.
    fn is_read(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| !parts.is_closed())
    }
}

/// What the callers were handed, in the order in which they were.
#[derive(Default)]
struct Received {
    pieces: Vec<String>,
    ends: Vec<Result<(), Error>>,
}

impl Received {
    fn take(&mut self, next: Result<Option<Batch>, Error>) {
        match next {
            Ok(Some(batch)) => self.pieces.extend(texts(batch)),
            Ok(None) => self.ends.push(Ok(())),
            Err(error) => self.ends.push(Err(error)),
        }
    }
}

struct Case {
    server: Server,
    stream: Arc<ReadAhead>,
    received: Arc<Mutex<Received>>,
    waiting: Vec<JoinHandle<()>>,
    loops: Vec<Loop>,
    // The model.
    started: bool,
    closed: bool,
    abandoned: bool,
    /// How many callers were waiting when the server ended the stream.
    waiting_at_the_end: usize,
    /// The pieces that had come when the stream was abandoned.
    arrived: usize,
    visits: u64,
    /// When a stream that nobody continues is closed, and how many visits it had had.
    expiries: Vec<(Instant, u64)>,
}

/// A stream whose connection is a channel.
fn open(parts: mpsc::UnboundedReceiver<Part>) -> ChatStream {
    let connection = stream::unfold(parts, |mut parts| async move {
        parts.recv().await.map(|part| (part, parts))
    });
    let response = http::Response::new(reqwest::Body::wrap_stream(connection.fuse()));
    let turn = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let opened = Opened {
        received: Default::default(),
        status: reqwest::StatusCode::OK,
        body: Body {
            decoder: None,
            response: response.into(),
            turn,
            deadline: None,
            idle_timeout: None,
            connect_timeout: GRACE,
        },
        start: Instant::now(),
        try_limit: None,
    };
    let count = CountedCall::begin(Arc::default(), Totals::default().model("m"));
    let options = CallOptions {
        timeout: None,
        ..CallOptions::default()
    };
    ChatStream::new(opened, &options, UnderWay::new(count))
}

/// Lets every task run until all of them wait.
async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

impl Case {
    fn new() -> Self {
        let (sender, parts) = mpsc::unbounded_channel();
        Self {
            server: Server {
                parts: Some(sender),
                sent: 0,
                ending: None,
            },
            stream: Arc::new(ReadAhead::new(async move { Ok(open(parts)) })),
            received: Arc::default(),
            waiting: Vec::new(),
            loops: Vec::new(),
            started: false,
            closed: false,
            abandoned: false,
            waiting_at_the_end: 0,
            arrived: 0,
            visits: 0,
            expiries: Vec::new(),
        }
    }

    /// Whether nothing more can come, as far as the reader knows: it has read what the server sent.
    fn is_over(&self) -> bool {
        self.closed || self.abandoned || (self.started && self.server.ending.is_some())
    }

    fn visit(&mut self) {
        self.visits += 1;
        self.started = true;
        self.stream.start(Shape::Texts);
    }

    fn wait(&mut self) {
        self.visit();
        let (stream, received) = (self.stream.clone(), self.received.clone());
        self.waiting.push(tokio::spawn(async move {
            let next = stream.next().await;
            received.lock().unwrap().take(next);
        }));
    }

    /// Runs what was returned for a wait or a loop that was cut short. `others` are the loops that
    /// may continue the iteration.
    fn given_up(&mut self, closing: Option<Closing>, others: usize) -> Option<String> {
        let expected = !self.is_over() && others == 0;
        if closing.is_some() != expected {
            return Some(format!("closing: {}, expected: {expected}", closing.is_some()));
        }
        if let Some(closing) = closing {
            tokio::spawn(closing);
            self.expiries.push((Instant::now() + GRACE, self.visits));
        }
        None
    }

    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        tokio::time::sleep(time).await;
        settle().await;
        let (due, later) = std::mem::take(&mut self.expiries)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= end);
        self.expiries = later;
        for (_, visits) in due {
            if self.waiting.is_empty() && visits == self.visits && self.started && !self.is_over() {
                (self.abandoned, self.arrived) = (true, self.server.sent);
            }
        }
    }

    async fn run(&mut self, step: Step) -> Option<String> {
        match step {
            Step::Send(count) if self.server.ending.is_none() => {
                let part = (0..count).map(|_| self.server.next_piece()).collect();
                self.server.send(part);
            }
            Step::SendInParts if self.server.ending.is_none() => {
                let piece = self.server.next_piece();
                let (head, tail) = piece.split_at(piece.len() / 2);
                self.server.send(head.to_owned());
                settle().await;
                self.server.send(tail.to_owned());
            }
            Step::End(ending) if self.server.ending.is_none() => {
                self.server.end(ending);
                self.waiting_at_the_end = self.waiting.len();
            }
            Step::Send(_) | Step::SendInParts | Step::End(_) => {}
            Step::Wait => self.wait(),
            Step::CancelWait(which) if !self.waiting.is_empty() => {
                let waiting = self.waiting.swap_remove(which % self.waiting.len());
                waiting.abort();
                let _ = waiting.await;
                let closing = self.stream.wait_was_given_up();
                return self.given_up(closing, self.loops.len().saturating_sub(1));
            }
            Step::LoseDelivery => {
                self.visit();
                settle().await;
                let mut next = Box::pin(self.stream.next());
                if let Some(next) = next.as_mut().now_or_never() {
                    self.stream.give_back(next);
                }
                drop(next);
                settle().await;
                let closing = self.stream.wait_was_given_up();
                return self.given_up(closing, self.loops.len().saturating_sub(1));
            }
            Step::Iterate => {
                self.visits += 1;
                self.loops.push(self.stream.iterate());
            }
            Step::EndLoop(which) if !self.loops.is_empty() => {
                self.loops.swap_remove(which % self.loops.len());
            }
            Step::LeaveLoop(which) if !self.loops.is_empty() => {
                let closing = self.loops.swap_remove(which % self.loops.len()).leave();
                return self.given_up(closing, self.loops.len());
            }
            Step::CancelWait(_) | Step::EndLoop(_) | Step::LeaveLoop(_) => {}
            Step::Pass(tenths) => self.pass(GRACE / 10 * tenths).await,
            Step::Close => {
                self.stream.close();
                self.closed = true;
            }
        }
        None
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.waiting.retain(|waiting| !waiting.is_finished());
        let received = self.received.lock().unwrap();
        let expected: Vec<String> = (1..=received.pieces.len())
            .map(|number| format!("{number},"))
            .collect();
        prop_assert_eq!(&received.pieces, &expected);
        prop_assert!(received.pieces.len() <= self.server.sent);
        for (index, end) in received.ends.iter().enumerate() {
            let is_whole = received.pieces.len() == self.server.sent;
            match end {
                Ok(()) if index == 0 && !self.closed => {
                    prop_assert!(is_whole, "pieces are missing");
                    let ending = self.server.ending;
                    prop_assert!(
                        matches!(ending, Some(Ending::Done | Ending::Finished)),
                        "{:?} passed for complete",
                        ending
                    );
                }
                Ok(()) => prop_assert!(self.closed || received.ends[index - 1].is_ok()),
                Err(error) => {
                    let earlier = &received.ends[..index];
                    prop_assert!(
                        earlier.iter().all(Result::is_err),
                        "an error after the end: {}",
                        error
                    );
                    match error {
                        Error::Abandoned(_) => prop_assert!(self.abandoned),
                        Error::Connection { .. } => {
                            prop_assert!(is_whole, "pieces are missing");
                            let ending = self.server.ending;
                            prop_assert!(matches!(ending, Some(Ending::Cut | Ending::Broken)));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
        }
        if !self.closed && matches!(self.server.ending, Some(Ending::Cut | Ending::Broken)) {
            let told = received.ends.iter().filter(|end| end.is_err()).count();
            prop_assert!(
                told >= self.waiting_at_the_end,
                "a caller took a stream that broke for complete"
            );
        }
        prop_assert!(self.waiting.is_empty() || !self.is_over(), "a wait has no end");
        let is_open = self.server.ending.is_none() && !self.closed && !self.abandoned;
        prop_assert_eq!(self.server.is_read(), is_open);
        Ok(())
    }

    /// Takes everything that is left, with time enough, and drops the stream.
    async fn finish(mut self) -> Result<(), TestCaseError> {
        if !self.waiting.is_empty() && !self.is_over() {
            self.server.end(Ending::Done);
            settle().await;
            self.check()?;
        }
        if self.is_over() || self.server.ending.is_some() {
            for _ in 0..self.server.sent + 2 {
                self.wait();
                settle().await;
                self.check()?;
            }
            let received = self.received.lock().unwrap();
            prop_assert!(!received.ends.is_empty());
            if self.abandoned && !self.closed {
                prop_assert_eq!(received.pieces.len(), self.arrived);
                prop_assert!(matches!(received.ends[0], Err(Error::Abandoned(_))));
            } else if !self.closed {
                prop_assert_eq!(received.pieces.len(), self.server.sent);
                let well = matches!(self.server.ending, Some(Ending::Done | Ending::Finished));
                prop_assert_eq!(received.ends[0].is_ok(), well);
            }
        }
        let (server, loops) = (self.server, self.loops);
        drop(loops);
        drop(self.stream);
        settle().await;
        prop_assert!(!server.is_read(), "the request was left open");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_stream_does_what_the_model_does(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut case = Case::new();
            for step in steps {
                let wrong = case.run(step.clone()).await;
                prop_assert!(wrong.is_none(), "{:?}: {}", step, wrong.unwrap_or_default());
                settle().await;
                case.check()?;
            }
            case.finish().await
        })?;
    }
}
