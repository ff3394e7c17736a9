//! The floor: what the same calls cost a Rust program that has nothing but reqwest and a JSON parser.
//!
//!     bare-client BASE_URL IN_FLIGHT SECONDS WARM_UP_SECONDS
//!
//! Prints one JSON object: calls, seconds, CPU seconds of all threads, and latencies in seconds.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde::Deserialize;
use serde_json::json;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
struct Completion {
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

async fn complete(client: &Client, url: &str) -> Result<Completion, Failure> {
    let body = json!({
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Write a proposal for a logo for a bakery."}],
        "temperature": 0.7,
        "max_tokens": 1000,
    });
    let response = client
        .post(url)
        .header("content-type", "application/json")
        .bearer_auth("not-needed")
        .timeout(Duration::from_secs(30))
        .body(body.to_string())
        .send()
        .await?
        .error_for_status()?;
    Ok(serde_json::from_slice(&response.bytes().await?)?)
}

/// Calls one after another until `end`; the latency of each.
async fn repeat(client: Client, url: String, end: Instant) -> Result<Vec<f64>, Failure> {
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        let completion = complete(&client, &url).await?;
        std::hint::black_box((&completion.model, &completion.usage.prompt_tokens));
        std::hint::black_box((
            &completion.usage.completion_tokens,
            &completion.usage.total_tokens,
        ));
        std::hint::black_box(completion.choices.first().map(|choice| &choice.message.content));
        latencies.push(started.elapsed().as_secs_f64());
    }
    Ok(latencies)
}

async fn spread(client: &Client, url: &str, in_flight: usize, seconds: f64) -> Result<Vec<f64>, Failure> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| tokio::spawn(repeat(client.clone(), url.to_owned(), end)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(latencies)
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists on every Linux, and `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn measure(arguments: &[String]) -> Result<String, Failure> {
    let [base_url, in_flight, seconds, warm_up] = arguments else {
        return Err("usage: bare-client BASE_URL IN_FLIGHT SECONDS WARM_UP_SECONDS".into());
    };
    let (in_flight, seconds, warm_up) = (in_flight.parse()?, seconds.parse()?, warm_up.parse()?);
    let url = format!("{base_url}/chat/completions");
    let client = Client::builder().no_proxy().build()?;
    spread(&client, &url, in_flight, warm_up).await?;

    let (cpu, started) = (cpu_seconds(), Instant::now());
    let latencies = spread(&client, &url, in_flight, seconds).await?;
    Ok(json!({
        "seconds": started.elapsed().as_secs_f64(),
        "cpu_seconds": cpu_seconds() - cpu,
        "latencies": latencies,
    })
    .to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match measure(&arguments).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}
