//! Many calls, a few at a time.
//!
//! The calls run in one task; results wait in a queue that is no longer than the calls are many at once, so a slow reader
//! holds the next calls back. Dropping the [`FanOut`] drops every call under way.

use std::future::Future;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Calls under way and to come.
pub struct FanOut<T> {
    results: mpsc::Receiver<(usize, T)>,
    task: JoinHandle<()>,
}

impl<T: Send + 'static> FanOut<T> {
    /// Starts the first `concurrency` of `calls`. Needs a tokio runtime around it.
    pub fn start<Calling>(calls: Vec<Calling>, concurrency: usize) -> Self
    where
        Calling: Future<Output = T> + Send + 'static,
    {
        let concurrency = concurrency.max(1);
        let (sender, results) = mpsc::channel(concurrency);
        let task = tokio::spawn(async move {
            let numbered = calls
                .into_iter()
                .enumerate()
                .map(|(index, call)| async move { (index, call.await) });
            let mut ended = stream::iter(numbered).buffer_unordered(concurrency);
            while let Some(result) = ended.next().await {
                if sender.send(result).await.is_err() {
                    return;
                }
            }
        });
        Self { results, task }
    }

    /// The results that have come since the last call (with their calls' indices), at least one, or nothing after the last.
    pub async fn next_batch(&mut self) -> Vec<(usize, T)> {
        let mut batch = Vec::new();
        self.results.recv_many(&mut batch, 1000).await;
        batch
    }
}

impl<T> Drop for FanOut<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
