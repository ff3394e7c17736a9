//! How a worker tells an event loop's thread that its inbox has mail.

use std::sync::Arc;

use tokio::sync::Notify;

/// The sending end, used by workers.
pub(super) enum Wakeup {
    /// A descriptor that the loop polls through `add_reader`.
    #[cfg(unix)]
    Descriptor(descriptor::Descriptor),
    /// The portable way, for loops that poll no descriptors: see [`super::portable`].
    Portable(Arc<Notify>),
}

impl Wakeup {
    /// Makes the loop call the inbox's `drain` soon. Never blocks.
    pub(super) fn wake(&self) {
        match self {
            #[cfg(unix)]
            Self::Descriptor(descriptor) => descriptor.signal(),
            Self::Portable(notify) => notify.notify_one(),
        }
    }

    /// Takes back the wake-ups that have arrived, so that the loop does not see them again.
    pub(super) fn clear(&self) {
        match self {
            #[cfg(unix)]
            Self::Descriptor(descriptor) => descriptor.clear(),
            Self::Portable(_) => {} // a permit is spent when it is received
        }
    }
}

/// An eventfd: one descriptor, a counter that is read whole.
#[cfg(target_os = "linux")]
pub(super) mod descriptor {
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::os::fd::{AsRawFd, RawFd};

    use rustix::event::{EventfdFlags, eventfd};

    pub struct Descriptor(File);

    impl Descriptor {
        pub fn new() -> io::Result<Self> {
            let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            Ok(Self(File::from(descriptor)))
        }

        pub fn number(&self) -> RawFd {
            self.0.as_raw_fd()
        }

        pub fn signal(&self) {
            // It fails only when the counter is full: then the loop has not yet seen 2^64 - 2
            // earlier signals.
            let _ = (&self.0).write(&1u64.to_ne_bytes());
        }

        pub fn clear(&self) {
            let _ = (&self.0).read(&mut [0; 8]);
        }
    }
}

/// A socket pair, where there is no eventfd.
#[cfg(all(unix, not(target_os = "linux")))]
pub(super) mod descriptor {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;

    pub struct Descriptor {
        reader: UnixStream,
        writer: UnixStream,
    }

    impl Descriptor {
        pub fn new() -> io::Result<Self> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            Ok(Self { reader, writer })
        }

        pub fn number(&self) -> RawFd {
            self.reader.as_raw_fd()
        }

        pub fn signal(&self) {
            // It fails only when the buffer is full: then the loop has signals enough to see.
            let _ = (&self.writer).write(&[1]);
        }

        pub fn clear(&self) {
            let _ = (&self.reader).read(&mut [0; 64]);
        }
    }
}
