//! The process's own argument area, which everybody on the machine can read in `/proc/PID/cmdline`.
//!
//! A command that was given a secret as an argument overwrites the area as the first thing it does. For the
//! moment between `execve` and that, the secret is visible; a file or a prompt has no such moment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Shows `args` instead of the real arguments in `/proc/self/cmdline`, cut to the room that the real ones
/// have. Take what you need from [`std::env::args`] before: it reads the same memory.
///
/// # Errors
/// `/proc/self/stat` cannot be read or does not say where the area is. Nothing was changed.
pub fn show(args: &[OsString]) -> io::Result<()> {
    let (start, end) = area(&std::fs::read("/proc/self/stat")?)
        .ok_or_else(|| io::Error::other("/proc/self/stat does not show the argument area"))?;
    let mut text = args.join(OsStr::new("\0")).as_bytes().to_vec();
    // The area keeps its final NUL: without it the kernel reads on into the environment.
    text.truncate((end - start).saturating_sub(1));
    text.resize(end - start, 0);
    let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
    for (i, byte) in text.into_iter().enumerate() {
        // SAFETY: the kernel says that `start..end` holds this process's arguments: memory on the initial
        // stack that is writable and mapped for ever. The standard library only keeps pointers to it and
        // reads it as C strings up to a NUL, which stays; no reference to it exists, and the write is
        // volatile, so nothing is assumed about it.
        unsafe { area.add(i).write_volatile(byte) };
    }
    Ok(())
}

/// `arg_start` and `arg_end`, fields 48 and 49 of proc_pid_stat(5). Field 2, in parentheses, may hold
/// anything.
fn area(stat: &[u8]) -> Option<(usize, usize)> {
    let after_name = stat.iter().rposition(|&b| b == b')')? + 2;
    let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_found_whatever_the_process_is_called() {
        let mut stat = b"1 (a) b) c) S".to_vec();
        (4..48).for_each(|n| stat.extend_from_slice(format!(" {n}").as_bytes()));
        stat.extend_from_slice(b" 4096 8192 0\n");
        assert_eq!(area(&stat), Some((4096, 8192)));
        assert_eq!(area(b"1 (x) S 0 0"), None);
        assert_eq!(area(b""), None);
    }

    #[test]
    fn the_shown_arguments_replace_the_real_ones() {
        let before = std::fs::read("/proc/self/cmdline").unwrap();
        show(&["shown".into(), "***".into()]).unwrap();
        let after = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(after.starts_with(b"shown\0***\0"), "{after:?}");
        assert!(after.len() == before.len() && after[10..].iter().all(|&b| b == 0));
        // Too long is cut.
        show(&[OsString::from("x".repeat(1 << 16))]).unwrap();
        let after = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(after.len() == before.len() && after.ends_with(b"x\0"));
    }
}
