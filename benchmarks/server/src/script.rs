//! What an answer is to be like, as the request's path says.

use std::time::Duration;

/// How one request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// From the end of the request to the start of the answer.
    pub delay: Duration,
    /// How many pieces of content a stream has.
    pub chunks: u32,
    /// The mean time between two pieces.
    pub interval: Duration,
}

impl Script {
    /// `None` if the path is not that of a chat completion, or has a setting that is unknown or no number.
    pub fn from_path(path: &str) -> Option<Self> {
        let settings = path.strip_suffix("/v1/chat/completions")?;
        let mut script = Self {
            delay: Duration::ZERO,
            chunks: 100,
            interval: Duration::ZERO,
        };
        for setting in settings.split('/').filter(|part| !part.is_empty()) {
            let (name, value) = setting.split_once('=')?;
            let value: u32 = value.parse().ok()?;
            match name {
                "delay-ms" => script.delay = Duration::from_millis(value.into()),
                "chunks" => script.chunks = value,
                "interval-ms" => script.interval = Duration::from_millis(value.into()),
                _ => return None,
            }
        }
        Some(script)
    }
}
