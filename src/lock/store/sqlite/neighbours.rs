//! Living beside another copy of SQLite in the same process.
//!
//! The application has one of its own (Python's `sqlite3`), and may use it on the file that the locks are in. SQLite's locks
//! on files are POSIX record locks, and those belong to the process: they keep two processes apart, but not two copies of
//! SQLite in one process, and whoever closes a file loses all the process's locks on it, the other copy's too. Two writers at
//! once destroy the file within seconds. <https://www.sqlite.org/howtocorrupt.html#_multiple_copies_of_sqlite_linked_into_the_same_application>
//!
//! So this package's copy takes *open file description* locks instead, which belong to the
//! descriptor. They exclude the POSIX locks of every process, this one included, and a close of
//! another descriptor does not drop them. When this copy closes a file that the other copy has
//! open, it keeps the descriptor open, since closing it would drop the locks of the other copy. It
//! uses the kept descriptor when it next opens the file, so that kept descriptors do not
//! accumulate.
//!
//! Such locks pass to a forked child with the descriptor. So a fork waits until no transaction of ours is under way
//! ([`working`]), and our copy, which knows files by their inode numbers, is shown others in the child: it opens everything
//! there anew.
//!
//! All this is for Linux, where SQLite lets its system calls be replaced and the kernel has such locks. Elsewhere the
//! application must keep its own SQLite off the file.

#![allow(
    unsafe_code,
    reason = "SQLite's system calls and fork handlers are C interfaces"
)]

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(super) use linux::{install, working};

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(super) fn install() {}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(super) fn working() {}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::ffi::CStr;
    use std::mem::{MaybeUninit, transmute};
    use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

    use libc::{c_char, c_int, c_void, flock, stat};
    use rusqlite::ffi::{sqlite3_syscall_ptr, sqlite3_vfs_find};

    /// Held for reading while our copy works, for writing while the process forks.
    static WORKING: RwLock<()> = RwLock::new(());

    thread_local! {
        static FORKING: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
    }

    /// Keeps the process from forking while the guard lives.
    pub(in super::super) fn working() -> RwLockReadGuard<'static, ()> {
        WORKING.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the system calls of our copy. To be called before a file is opened; does something once.
    pub(in super::super) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: the default VFS is static; each function has the signature of the call it stands for (os_unix.c), and
            // the handlers are never unloaded, as an extension module is not.
            unsafe {
                libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork));
                let vfs = sqlite3_vfs_find(std::ptr::null());
                if let Some(set) = vfs.as_ref().and_then(|vfs| vfs.xSetSystemCall) {
                    let replace = |name: &CStr, call: sqlite3_syscall_ptr| set(vfs, name.as_ptr(), call);
                    replace(c"fcntl", transmute::<Fcntl, sqlite3_syscall_ptr>(fcntl));
                    replace(c"open", transmute::<Open, sqlite3_syscall_ptr>(open));
                    replace(c"close", transmute::<Close, sqlite3_syscall_ptr>(close));
                    replace(c"fstat", transmute::<FileStat, sqlite3_syscall_ptr>(file_stat));
                    replace(c"stat", transmute::<PathStat, sqlite3_syscall_ptr>(path_stat));
                }
            }
        });
    }

    extern "C" fn before_fork() {
        let guard = WORKING.write().unwrap_or_else(PoisonError::into_inner);
        FORKING.with(|forking| *forking.borrow_mut() = Some(guard));
    }

    extern "C" fn after_fork() {
        FORKING.with(|forking| drop(forking.borrow_mut().take()));
    }

    type Fcntl = unsafe extern "C" fn(c_int, c_int, *mut c_void) -> c_int;
    type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
    type Close = unsafe extern "C" fn(c_int) -> c_int;
    type FileStat = unsafe extern "C" fn(c_int, *mut stat) -> c_int;
    type PathStat = unsafe extern "C" fn(*const c_char, *mut stat) -> c_int;

    /// `fcntl`, with locks that belong to the open file instead of the process.
    unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
        let command = match command {
            libc::F_SETLK => libc::F_OFD_SETLK,
            libc::F_SETLKW => libc::F_OFD_SETLKW,
            libc::F_GETLK => libc::F_OFD_GETLK,
            // SAFETY: passed on as it came.
            other => return unsafe { libc::fcntl(descriptor, other, argument) },
        };
        // SAFETY: for these commands the caller gives a lock description; the kernel wants its process number to be 0.
        unsafe {
            (*argument.cast::<flock>()).l_pid = 0;
            libc::fcntl(descriptor, command, argument)
        }
    }

    /// The identity of a file: its device and inode.
    type Identity = (u64, u64);

    /// The descriptors of this package's copy of SQLite. A forked child starts with none: the
    /// descriptors that it inherited share their locks with the parent process.
    static DESCRIPTORS: Mutex<Descriptors> = Mutex::new(Descriptors {
        process: 0,
        used: Vec::new(),
        kept: Vec::new(),
    });

    struct Descriptors {
        process: u32,
        /// The descriptors that this copy uses.
        used: Vec<(c_int, Identity)>,
        /// The descriptors that this copy has closed. They stay open, without a lock, since other
        /// code in this process had the same file open; this copy uses them when it next opens the
        /// file.
        kept: Vec<(c_int, Identity)>,
    }

    impl Descriptors {
        fn of_this_process() -> MutexGuard<'static, Self> {
            let mut all = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
            let process = std::process::id();
            if all.process != process {
                *all = Self {
                    process,
                    used: Vec::new(),
                    kept: Vec::new(),
                };
            }
            all
        }

        /// Whether the descriptor still refers to the file that this copy opened under its number.
        fn is_ours(&self, descriptor: c_int, file: Identity) -> bool {
            self.used.contains(&(descriptor, file)) || self.kept.contains(&(descriptor, file))
        }

        /// Returns the files that other code in this process has open, or None if `/proc` can't be
        /// read.
        fn open_elsewhere(&self) -> Option<HashSet<Identity>> {
            let open = std::fs::read_dir("/proc/self/fd").ok()?;
            let others = open
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<c_int>().ok())
                .filter_map(|descriptor| Some((descriptor, identity(descriptor)?)))
                .filter(|(descriptor, file)| !self.is_ours(*descriptor, *file));
            Some(others.map(|(_, file)| file).collect())
        }
    }

    /// `open`, which returns a kept descriptor of the file if one exists.
    unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
        let mut all = Descriptors::of_this_process();
        // SAFETY: the path is passed on unchanged.
        if let Some(descriptor) = unsafe { take_kept(&mut all, path, flags) } {
            return descriptor;
        }
        // SAFETY: the arguments are passed on unchanged.
        let descriptor = unsafe { libc::open(path, flags, mode) };
        // After a failure, no further system call may overwrite `errno`.
        if descriptor >= 0
            && let Some(file) = identity(descriptor)
        {
            all.used.push((descriptor, file));
        }
        descriptor
    }

    /// Takes a kept descriptor that can replace a new one.
    unsafe fn take_kept(all: &mut Descriptors, path: *const c_char, flags: c_int) -> Option<c_int> {
        if all.kept.is_empty() || flags & (libc::O_EXCL | libc::O_TRUNC) != 0 {
            return None;
        }
        let access = flags & libc::O_ACCMODE;
        let rights = if access == libc::O_RDONLY {
            libc::R_OK
        } else {
            libc::R_OK | libc::W_OK
        };
        // SAFETY: the path is passed on unchanged, and `found` is read only if the call has written
        // it. `lstat` makes a symbolic link never match: no kept descriptor has the inode of a
        // link.
        let file = unsafe {
            let mut found = MaybeUninit::<stat>::uninit();
            if libc::access(path, rights) != 0 || libc::lstat(path, found.as_mut_ptr()) != 0 {
                return None;
            }
            let found = found.assume_init();
            (found.st_dev, found.st_ino)
        };
        // SAFETY: `F_GETFL` only reads the flags of the descriptor.
        let serves =
            |descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFL) & libc::O_ACCMODE == access };
        let position = all.kept.iter().position(|(descriptor, kept)| {
            // SQLite refuses descriptors with the numbers of the standard streams.
            *descriptor > 2 && *kept == file && identity(*descriptor) == Some(file) && serves(*descriptor)
        })?;
        let kept = all.kept.swap_remove(position);
        all.used.push(kept);
        Some(kept.0)
    }

    /// `close`, which keeps the descriptor if other code in this process has the file open. It also
    /// closes every kept descriptor whose file no other code has open any more.
    unsafe extern "C" fn close(descriptor: c_int) -> c_int {
        let mut all = Descriptors::of_this_process();
        let file = identity(descriptor);
        all.used.retain(|(other, _)| *other != descriptor);
        let Some(file) = file else {
            // SAFETY: the argument is passed on unchanged.
            return unsafe { libc::close(descriptor) };
        };
        all.kept.push((descriptor, file));
        drop_locks(descriptor);
        let Some(elsewhere) = all.open_elsewhere() else {
            return 0;
        };
        all.kept.retain(|(kept, file)| {
            let stays = elsewhere.contains(file);
            if !stays && identity(*kept) == Some(*file) {
                // SAFETY: only this module uses the descriptor, and it has just dropped it.
                unsafe { libc::close(*kept) };
            }
            stays
        });
        0
    }

    /// Drops all locks of a descriptor, as closing it does.
    fn drop_locks(descriptor: c_int) {
        // SAFETY: a zeroed `flock` is valid, and with the type `F_UNLCK` it means the whole file.
        unsafe {
            let mut all: flock = std::mem::zeroed();
            all.l_type = libc::F_UNLCK as libc::c_short;
            libc::fcntl(descriptor, libc::F_OFD_SETLK, &raw mut all);
        }
    }

    fn identity(descriptor: c_int) -> Option<Identity> {
        let mut found = MaybeUninit::<stat>::uninit();
        // SAFETY: `found` is written if, and only if, the call succeeds.
        let found =
            unsafe { (libc::fstat(descriptor, found.as_mut_ptr()) == 0).then(|| found.assume_init()) };
        found.map(|found| (found.st_dev, found.st_ino))
    }

    /// `fstat`, with an inode number that is the process's own.
    unsafe extern "C" fn file_stat(descriptor: c_int, found: *mut stat) -> c_int {
        // SAFETY: passed on as it came; written if the call succeeds.
        unsafe {
            let result = libc::fstat(descriptor, found);
            if result == 0 {
                (*found).st_ino ^= mark();
            }
            result
        }
    }

    /// `stat`, likewise.
    unsafe extern "C" fn path_stat(path: *const c_char, found: *mut stat) -> c_int {
        // SAFETY: passed on as it came; written if the call succeeds.
        unsafe {
            let result = libc::stat(path, found);
            if result == 0 {
                (*found).st_ino ^= mark();
            }
            result
        }
    }

    /// Differs between a process and its forked children; inode numbers seldom use these bits.
    fn mark() -> u64 {
        u64::from(std::process::id()) << 40
    }
}
