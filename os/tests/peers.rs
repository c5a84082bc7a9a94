//! What a peer shares, in a process of its own for each test: some change limits of the process, and some end
//! it.
#![allow(unsafe_code, reason = "touches mappings, as `bus` does")]
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use os::event::Event;
use os::log::{self, To};
use os::shm::{Mapping, losses};
use os::unix::{Channel, MAX_FDS};

const CHILD: &str = "CNIC_TEST_CHILD";

/// Runs the test of this name again, as the child; `None`: this is the child.
fn child(name: &str, stderr: impl Into<Stdio>) -> Option<Output> {
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1").stderr(stderr);
    Some(command.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap())
}

fn shrinkable(len: usize) -> OwnedFd {
    let fd = memfd_create("peer", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    std::fs::File::from(fd.try_clone().unwrap()).set_len(len as u64).unwrap();
    fd
}

#[test]
fn a_mapping_that_a_peer_shrinks_is_replaced_and_marked() {
    let name = "a_mapping_that_a_peer_shrinks_is_replaced_and_marked";
    if let Some(out) = child(name, Stdio::piped()) {
        return assert!(out.status.success(), "{out:?}");
    }
    let (fd, other) = (shrinkable(16384), shrinkable(4096));
    let mapping = Mapping::new(fd.as_fd(), 0, 16384, true).unwrap();
    let whole = Mapping::new(other.as_fd(), 0, 4096, true).unwrap();
    // SAFETY: inside of the mappings, of which there are no references.
    unsafe {
        mapping.base().as_ptr().add(9000).write_volatile(7);
        whole.base().as_ptr().write_volatile(8);
        std::fs::File::from(fd.try_clone().unwrap()).set_len(4096).unwrap();
        assert_eq!((losses(), mapping.is_lost()), (0, false));
        mapping.base().as_ptr().add(9000).write_volatile(9);
        assert_eq!(mapping.base().as_ptr().add(12000).read_volatile(), 0);
        assert_eq!(whole.base().as_ptr().read_volatile(), 8, "the others' are as they were");
    }
    assert_eq!((losses(), mapping.is_lost(), whole.is_lost()), (1, true, false));
    drop(mapping);
    let again = Mapping::new(other.as_fd(), 0, 4096, true).unwrap();
    assert!(!again.is_lost(), "a mark does not outlive its mapping");
}

#[test]
fn a_bus_error_elsewhere_ends_the_process_as_before() {
    let name = "a_bus_error_elsewhere_ends_the_process_as_before";
    if let Some(out) = child(name, Stdio::piped()) {
        return assert_eq!(out.status.signal(), Some(libc::SIGBUS), "{out:?}");
    }
    let fd = shrinkable(4096);
    let _ours = Mapping::new(fd.as_fd(), 0, 4096, true).unwrap();
    // SAFETY: a mapping that nobody has registered, and a core file that nobody wants.
    unsafe {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        let len = 4096;
        let p = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd.as_raw_fd(), 0);
        std::fs::File::from(fd.try_clone().unwrap()).set_len(0).unwrap();
        p.cast::<u8>().read_volatile();
    }
    panic!("the process goes on");
}

#[test]
fn a_bus_error_that_somebody_sends_ends_the_process_as_before() {
    let name = "a_bus_error_that_somebody_sends_ends_the_process_as_before";
    if let Some(out) = child(name, Stdio::piped()) {
        return assert_eq!(out.status.signal(), Some(libc::SIGBUS), "{out:?}");
    }
    let fd = shrinkable(4096);
    let _ours = Mapping::new(fd.as_fd(), 0, 4096, true).unwrap();
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    // Rust's own handler, which was there before, lets the first one go by.
    for _ in 0..3 {
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGBUS).unwrap();
    }
}

#[test]
fn only_files_that_cannot_shrink_are_mapped_as_sealed() {
    let ours = os::shm::memfd_for_seals("ours", 8192).unwrap();
    assert!(Mapping::sealed(ours.as_fd(), 0, 8192, true).is_ok());
    let e = Mapping::sealed(shrinkable(8192).as_fd(), 0, 8192, true).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::PermissionDenied);
    // What is sealed for readers: our mapping goes on, and the next one gets no right to write.
    let mapping = Mapping::new(ours.as_fd(), 0, 8192, true).unwrap();
    os::shm::seal_for_readers(ours.as_fd()).unwrap();
    assert!(Mapping::new(ours.as_fd(), 0, 8192, true).is_err());
    assert!(Mapping::new(ours.as_fd(), 0, 8192, false).is_ok());
    assert!(nix::unistd::write(&ours, b"x").is_err());
    // SAFETY: inside of the mapping, of which there are no references.
    unsafe { mapping.base().as_ptr().write_volatile(1) };
}

/// The table of this process is full in the middle of a message: what did fit is closed again.
#[test]
fn descriptors_of_a_truncated_message_do_not_stay_open() {
    let name = "descriptors_of_a_truncated_message_do_not_stay_open";
    if let Some(out) = child(name, Stdio::piped()) {
        return assert!(out.status.success(), "{out:?}");
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (a, b) = Channel::pair().unwrap();
    let e = Event::new().unwrap();
    let many: Vec<_> = (0..MAX_FDS).map(|_| e.as_fd()).collect();
    assert_eq!(a.send(b"x", &many).unwrap(), 1);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let before = open();
    setrlimit(Resource::RLIMIT_NOFILE, before as u64 + 40, hard).unwrap();
    let mut fds = Vec::new();
    let e = b.recv(&mut [0; 8], &mut fds).unwrap_err();
    assert_eq!((e.kind(), fds.len(), open()), (std::io::ErrorKind::InvalidData, 0, before));
}

/// Twice what a pipe takes, into one that nobody reads, and then into one that is closed.
#[test]
fn lines_that_nobody_reads_are_dropped_and_counted() {
    let name = "lines_that_nobody_reads_are_dropped_and_counted";
    if std::env::var_os(CHILD).is_none() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut out = Command::new(std::env::current_exe().unwrap());
        out.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, "1").stderr(write);
        let status = out.stdout(Stdio::null()).status().unwrap();
        drop(read);
        return assert!(status.success(), "{status}");
    }
    let line = "x".repeat(1000);
    for _ in 0..3000 {
        log::say(To::Err, format!("{line}\n"));
    }
    assert!(log::dropped() > 0, "the queue has a limit");
    assert!(!log::flush(std::time::Duration::from_millis(50)), "and nobody reads");
    for _ in 0..2 * log::BURST {
        log::log(To::Err, &line);
    }
}

#[test]
fn a_closed_or_full_standard_error_is_no_reason_to_end() {
    let name = "a_closed_or_full_standard_error_is_no_reason_to_end";
    if std::env::var_os(CHILD).is_none() {
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        for stderr in [Stdio::from(write), Stdio::from(full)] {
            let out = child(name, stderr).unwrap();
            assert!(out.status.success(), "{out:?}");
        }
        return;
    }
    for i in 0..10 {
        log::log(To::Err, "nobody gets this");
        assert!(log::flush(std::time::Duration::from_secs(20)), "line {i}");
    }
    assert!(log::dropped() > 0);
    // Closed altogether.
    // SAFETY: nobody else uses the descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(2) });
    log::log(To::Err, "nobody gets this either");
    assert!(log::flush(std::time::Duration::from_secs(20)));
}
