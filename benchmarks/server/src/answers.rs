//! The bodies of answers: one completion, and streams of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep};

/// A short answer with everything that a hosted API sends along.
pub const COMPLETION: &str = concat!(
    r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,"#,
    r#""model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"#,
    r#""I have built storefronts like this one for nine years, and would start with the checkout: it is where the "#,
    r#"time is lost. A first version could be on your test system within a week, the rest within the month.","#,
    r#""refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"#,
    r#""completion_tokens":48,"total_tokens":67,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"#,
    r#""completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"#,
    r#""rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_06737a9306"}"#
);

macro_rules! event {
    ($delta:literal, $finish:literal) => {
        concat!(
            r#"data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","created":1741569952,"#,
            r#""model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_06737a9306","choices":"#,
            r#"[{"index":0,"delta":"#,
            $delta,
            r#","logprobs":null,"finish_reason":"#,
            $finish,
            "}]}\n\n"
        )
    };
}

const FIRST: &str = event!(r#"{"role":"assistant","content":"","refusal":null}"#, "null");
/// In turn: LiteLLM takes a model that says the same thing a hundred times for a broken one.
const PIECES: [&str; 3] = [
    event!(r#"{"content":" a"}"#, "null"),
    event!(r#"{"content":" careful"}"#, "null"),
    event!(r#"{"content":" proposal"}"#, "null"),
];
const LAST: &str = concat!(event!("{}", r#""stop""#), "data: [DONE]\n\n");

/// Whether a request's body asks for a stream, however its JSON is spaced.
pub fn wants_stream(body: &[u8]) -> bool {
    const KEY: &[u8] = br#""stream":"#;
    body.windows(KEY.len())
        .position(|window| window == KEY)
        .is_some_and(|at| body[at + KEY.len()..].trim_ascii_start().starts_with(b"true"))
}

/// A stream of events, each written on its own.
pub struct Events {
    pieces: u32,
    sent: u32,
    interval: Duration,
    random: u32,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Events {
    pub fn new(pieces: u32, interval: Duration) -> Self {
        static SEED: AtomicU32 = AtomicU32::new(1);
        Self {
            pieces,
            sent: 0,
            interval,
            random: SEED.fetch_add(0x9E37_79B9, Ordering::Relaxed) | 1,
            pause: None,
        }
    }

    /// Uniform around the mean interval, so that streams that started together do not stay in step.
    fn next_pause(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.interval
            .mul_f64(f64::from(self.random) / f64::from(u32::MAX) * 2.0)
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let event = match self.sent {
            0 => FIRST,
            sent if sent <= self.pieces => PIECES[sent as usize % PIECES.len()],
            sent if sent == self.pieces + 1 => LAST,
            _ => return Poll::Ready(None),
        };
        self.sent += 1;
        if !self.interval.is_zero() && self.sent <= self.pieces {
            let until = Instant::now() + self.next_pause();
            self.pause = Some(Box::pin(tokio::time::sleep_until(until)));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(event.as_bytes())))))
    }
}
