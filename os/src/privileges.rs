//! Rights that a process gives up for good.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, User, initgroups, setresgid, setresuid};
use thiserror::Error;

/// Why rights were kept. The process must not go on as if they were gone.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// The name is nobody's.
    #[error("there is no user {0}")]
    NoUser(String),
    /// Only root may become somebody else.
    #[error("only root can run as {0}")]
    NotRoot(String),
    /// The kernel refuses.
    #[error("the rights of root cannot be given up: {0}")]
    Refused(io::Error),
}

impl From<Errno> for PrivilegeError {
    fn from(e: Errno) -> Self {
        Self::Refused(e.into())
    }
}

/// Becomes `name`, with the groups of that user, for good: no capability is left, and no program that this
/// process starts gives one back. Threads that run already follow, as setuid(2) of the C library sees to.
///
/// # Errors
/// [`PrivilegeError`]; some rights may be gone by then.
pub fn become_user(name: &str) -> Result<(), PrivilegeError> {
    let user = User::from_name(name)?.ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    renounce()?;
    if Uid::effective() == user.uid && !user.uid.is_root() {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        return Err(PrivilegeError::NotRoot(name.to_owned()));
    }
    let account = CString::new(name).map_err(io::Error::from).map_err(PrivilegeError::Refused)?;
    initgroups(&account, user.gid)?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    // Belief: there is no way back.
    if !user.uid.is_root()
        && (setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
            || Gid::effective() != user.gid)
    {
        return Err(PrivilegeError::Refused(io::ErrorKind::PermissionDenied.into()));
    }
    Ok(())
}

/// No program that this process starts has more rights than it (`no_new_privs`).
///
/// # Errors
/// The kernel refuses.
pub fn renounce() -> Result<(), PrivilegeError> {
    Ok(prctl::set_no_new_privs()?)
}
