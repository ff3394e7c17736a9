//! A call's limits, as Python gives them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyString, PyTuple};

use super::convert::{header_pairs, seconds};
use super::errors::{invalid_type, invalid_value};
use crate::llm::{self, Headers, IdempotencyKey, Route, TransportSettings, proxy_url};

/// The limits of calls and how they are retried; unchangeable. `adjusted(...)` makes another.
#[pyclass(frozen, module = "arbitrageai_native._native")]
#[derive(Clone, Default)]
pub struct CallOptions {
    pub(super) options: llm::CallOptions,
    pub(super) transport: TransportSettings,
    pub(super) headers: Headers,
}

#[pymethods]
impl CallOptions {
    #[new]
    #[pyo3(signature = (**settings))]
    fn new(settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        settings.map_or_else(
            || Ok(Self::default()),
            |settings| Self::default().adjusted(settings),
        )
    }

    /// These options with the given settings changed.
    fn adjusted(&self, settings: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut changed = self.clone();
        // First, since it may say how long making a connection may take, and a setting of its own overrides that.
        if let Some(timeout) = settings.get_item("timeout")? {
            changed.set_timeout(&timeout)?;
        }
        // The loop runs over a copy, because reading a value may run Python code that changes the
        // dict.
        for (name, value) in settings.copy()?.iter() {
            let name = name.extract::<String>()?;
            changed.set(&name, &value)?;
        }
        Ok(changed)
    }

    /// The limit of one try in seconds, or None.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.options.timeout.map(|timeout| timeout.as_secs_f64())
    }

    /// The limit of the whole call in seconds, or None.
    #[getter]
    fn deadline(&self) -> Option<f64> {
        self.options.deadline.map(|deadline| deadline.as_secs_f64())
    }
}

impl CallOptions {
    fn set(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let options = &mut self.options;
        match name {
            "timeout" => {} // set before
            "deadline" => options.deadline = seconds(name, value)?,
            "first_byte_timeout" => options.first_byte_timeout = seconds(name, value)?,
            "idle_timeout" => options.idle_timeout = seconds(name, value)?,
            "connect_timeout" => self.transport.connect_timeout = connect_timeout(name, value)?,
            "http2" => self.transport.http2 = switch(name, value)?,
            "verify" => {
                let trusts_anyone = !switch(name, value)?;
                self.set_route(trusts_anyone, |route| route.trusts_anyone = trusts_anyone);
            }
            "ca_certs" | "client_cert" | "proxy" | "unix_socket" => self.set_way(name, value)?,
            "max_connections" => self.transport.max_connections = whole(name, value, 1)?.min(1 << 20),
            "max_retries" => {
                options.retry.max_retries = whole(name, value, 0)?.try_into().unwrap_or(u32::MAX)
            }
            "retry_base" => options.retry.base = wait(name, value)?,
            "retry_cap" => options.retry.cap = wait(name, value)?,
            "retry_after_limit" => options.retry.max_retry_after = wait(name, value)?,
            "retry_jitter" => {
                let part = value
                    .extract::<f64>()
                    .map_err(|_| invalid_type(&name, "has to be a number"))?;
                if !(0.0..=1.0).contains(&part) {
                    let problem = format!("has to lie between 0 and 1, not {part}");
                    return Err(invalid_value(&name, &problem));
                }
                options.retry.jitter = part;
            }
            "max_body_bytes" => options.max_body_bytes = whole(name, value, 1)?,
            "idempotency_key" => options.idempotency_key = idempotency_key(name, value)?,
            "default_headers" => self.headers = header_pairs(name, Some(value))?,
            _ => return Err(invalid_type(&name, "is not a setting")),
        }
        Ok(())
    }

    /// A number of seconds, or the SDK's `httpx.Timeout`, whose `read` is the limit here.
    fn set_timeout(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let (Some(read), Some(connect)) = (value.getattr_opt("read")?, value.getattr_opt("connect")?) {
            self.options.timeout = seconds("timeout.read", &read)?;
            self.transport.connect_timeout = connect_timeout("timeout.connect", &connect)?;
        } else {
            self.options.timeout = seconds("timeout", value)?;
        }
        Ok(())
    }

    fn set_way(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_given = !value.is_none();
        match name {
            "proxy" => {
                let proxy = text(name, value, is_given)?;
                if let Some(proxy) = &proxy {
                    proxy_url(name, proxy)?;
                }
                self.set_route(is_given, |route| route.proxy = proxy);
            }
            "client_cert" => {
                let files = match value.cast::<PyTuple>() {
                    Ok(pair) => pair
                        .extract::<(PathBuf, PathBuf)>()
                        .map(Some)
                        .map_err(|_| invalid_type(&name, "has to be a path, or a pair of paths"))?,
                    Err(_) => path(name, value, is_given)?.map(|file| (file.clone(), file)),
                };
                self.set_route(is_given, |route| route.client_cert = files);
            }
            "ca_certs" => {
                let file = path(name, value, is_given)?;
                self.set_route(is_given, |route| route.ca_certs = file);
            }
            "unix_socket" => {
                let file = path(name, value, is_given)?;
                self.set_route(is_given, |route| route.unix_socket = file);
            }
            _ => return Err(invalid_type(&name, "is not a setting")),
        }
        Ok(())
    }

    /// Changes the route. One that nothing was said of is not made: then services share connections.
    fn set_route(&mut self, is_given: bool, change: impl FnOnce(&mut Route)) {
        if !is_given && self.transport.route.is_none() {
            return;
        }
        let mut route = self.transport.route.as_deref().cloned().unwrap_or_default();
        change(&mut route);
        self.transport.route = (route != Route::default()).then(|| Arc::new(route));
    }
}

fn connect_timeout(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    // A day is no limit in practice, and every clock can express it.
    const LONGEST: Duration = Duration::from_secs(86_400);
    Ok(seconds(name, value)?.unwrap_or(LONGEST).min(LONGEST))
}

fn switch(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let switch = value.cast::<PyBool>();
    let switch = switch.map_err(|_| invalid_type(&name, "has to be True or False"))?;
    Ok(switch.is_true())
}

fn path(name: &str, value: &Bound<'_, PyAny>, is_given: bool) -> PyResult<Option<PathBuf>> {
    let path = is_given.then(|| value.extract::<PathBuf>()).transpose();
    path.map_err(|_| invalid_type(&name, &format!("has to be a path, not {}", kind_of(value))))
}

fn text(name: &str, value: &Bound<'_, PyAny>, is_given: bool) -> PyResult<Option<String>> {
    let text = is_given.then(|| value.extract::<String>()).transpose();
    text.map_err(|_| invalid_type(&name, &format!("has to be a string, not {}", kind_of(value))))
}

fn kind_of(value: &Bound<'_, PyAny>) -> String {
    value
        .get_type()
        .name()
        .map_or_else(|_| "that".to_owned(), |name| name.to_string())
}

fn whole(name: &str, value: &Bound<'_, PyAny>, least: usize) -> PyResult<usize> {
    if value.cast::<PyBool>().is_ok() || value.cast::<PyInt>().is_err() {
        return Err(invalid_type(&name, "has to be an integer"));
    }
    let number = value.extract::<usize>().ok().filter(|number| *number >= least);
    let problem = || format!("has to be an integer from {least} on, not {value}");
    number.ok_or_else(|| invalid_value(&name, &problem()))
}

fn wait(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    seconds(name, value)?.ok_or_else(|| invalid_value(&name, "has to be a finite number of seconds"))
}

fn idempotency_key(name: &str, value: &Bound<'_, PyAny>) -> PyResult<IdempotencyKey> {
    if let Ok(switch) = value.cast::<PyBool>() {
        return Ok(if switch.is_true() {
            IdempotencyKey::PerCall
        } else {
            IdempotencyKey::Off
        });
    }
    if value.is_none() {
        return Ok(IdempotencyKey::Off);
    }
    let key = value
        .cast::<PyString>()
        .map_err(|_| invalid_type(&name, "has to be True, False or a string"))?;
    let key = key
        .to_str()
        .map_err(|_| invalid_value(&name, "holds a lone surrogate, which UTF-8 can't express"))?;
    Ok(IdempotencyKey::given(key)?)
}
