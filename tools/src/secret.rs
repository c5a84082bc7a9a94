//! CHAP secrets on their way from the command line to a login: never printed, and taken off the process
//! title.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use iscsi::chap::Credentials;

use crate::failure::Failure;

/// What stands for a secret wherever it would be shown; `iscsiadm` masks passwords the same way.
pub(crate) const MASK: &str = "********";

/// `USER:SECRET`. `what` names the option in the error, which does not repeat the value.
pub(crate) fn parse(what: &str, text: &str) -> Result<Credentials, Failure> {
    match text.split_once(':') {
        Some((user, secret)) if !user.is_empty() && !secret.is_empty() => Ok(Credentials::new(user, secret)),
        _ => Err(Failure::usage(format!("{what} takes USER:SECRET, both not empty"))),
    }
}

/// A file with `USER:SECRET` on the first line and, for mutual CHAP, the target's on the second. Nobody but
/// its owner may have anything to do with it: whoever can write it decides who logs in.
pub(crate) fn read_file(path: &Path) -> Result<(Credentials, Option<Credentials>), Failure> {
    let name = path.display();
    let failed = |e: std::io::Error| Failure::usage(format!("cannot read the CHAP file {name}: {e}"));
    // One open file is judged and read, whatever the name means meanwhile.
    let mut file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::usage(format!(
            "the CHAP file {name} is open to others (mode {:04o}); do `chmod 600 {name}`",
            mode & 0o7777
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let what = format!("each line of {name}");
    let first = lines.next().ok_or_else(|| Failure::usage(format!("the CHAP file {name} is empty")))?;
    let second = lines.next().map(|l| parse(&what, l)).transpose()?;
    Ok((parse(&what, first)?, second))
}

/// Options whose value is `USER:SECRET`.
const SECRET_OPTIONS: [&str; 2] = ["--chap", "--mutual"];

/// The command line as others may see it: every secret replaced by [`MASK`].
pub(crate) fn shown(args: &[OsString]) -> Vec<OsString> {
    let mut after_option = false;
    args.iter()
        .map(|arg| {
            let is_value = std::mem::take(&mut after_option);
            let bytes = arg.as_bytes();
            if is_value {
                return mask_after_colon(bytes);
            }
            for option in SECRET_OPTIONS {
                if bytes == option.as_bytes() {
                    after_option = true;
                    return arg.clone();
                }
                if let Some(value) =
                    bytes.strip_prefix(option.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
                {
                    let mut out = OsString::from(format!("{option}="));
                    out.push(mask_after_colon(value));
                    return out;
                }
            }
            mask_url(bytes)
        })
        .collect()
}

/// Takes everything that [`shown`] hides out of `text`, such as a usage error that repeats an argument.
pub(crate) fn scrub(text: &str, args: &[OsString]) -> String {
    let mut text = text.to_owned();
    for (real, shown) in args.iter().zip(shown(args)) {
        if *real != shown {
            text = text.replace(&*real.to_string_lossy(), &shown.to_string_lossy());
        }
    }
    text
}

fn mask_after_colon(value: &[u8]) -> OsString {
    let user = value.split(|&b| b == b':').next().unwrap_or_default();
    joined(&[user, b":", MASK.as_bytes()])
}

/// Masks `user%secret@` and all from the first `password=` on, in whatever may be meant as an iSCSI URL: a
/// URL with a slash too few is refused, but it was in the process list before.
fn mask_url(arg: &[u8]) -> OsString {
    let mut shown = arg.to_vec();
    // To the last `@`: a secret may hold one.
    if let Some(at) = shown.iter().rposition(|&b| b == b'@')
        && let Some(percent) = shown[..at].iter().position(|&b| b == b'%')
    {
        shown.splice(percent + 1..at, MASK.bytes());
    }
    const KEY: &[u8] = b"password=";
    if let Some(key) = shown.windows(KEY.len()).position(|w| w.eq_ignore_ascii_case(KEY)) {
        shown.truncate(key + KEY.len());
        shown.extend(MASK.bytes());
    }
    OsString::from_vec(shown)
}

fn joined(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_as(args: &[&str]) -> Vec<String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        shown(&args).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn every_place_that_can_hold_a_secret_is_masked() {
        assert_eq!(
            shown_as(&["cnic", "target", "--chap", "me:geheim", "--mutual=you:ge:heim", "--iqn", "iqn.x"]),
            ["cnic", "target", "--chap", "me:********", "--mutual=you:********", "--iqn", "iqn.x"]
        );
        assert_eq!(
            shown_as(&[
                "cnic",
                "info",
                "iscsi://me%ge@h%eim@[::1]:3260/iqn.x/0?target_user=t&target_password=g"
            ]),
            ["cnic", "info", "iscsi://me%********@[::1]:3260/iqn.x/0?target_user=t&target_password=********"]
        );
        for url in [
            "iscsi://me%geheim?x=1@h/t",
            "iscsi://h/t/0?target_password=geheim@x&a=b",
            "iscsi://h/t?target_password=a%geheim@",
            "iscsi:/me%geheim@h/t/0",
            "me%geheim@h/t/0",
            "iscsi://me%x@h/t?target_password=x&target_password=geheim",
            "iscsi://me@h/t?target_password=a&geheim",
            "iscsi://me@h/t?Target_Password=geheim@h",
        ] {
            assert!(!shown_as(&[url])[0].contains("geheim"), "{url}");
        }
        assert_eq!(shown_as(&["iscsi://h/iqn.x/0", "--chap", "forgot"])[1..], ["--chap", "forgot:********"]);
        assert_eq!(shown_as(&["iscsi://me@h/iqn.x/0?header_digest=none"])[0].find(MASK), None);
    }

    #[test]
    fn scrub_takes_secrets_out_of_other_peoples_texts() {
        let args = ["cnic".into(), "iscsi://me%geheim@h/t".into()];
        assert_eq!(scrub("bad value 'iscsi://me%geheim@h/t'", &args), "bad value 'iscsi://me%********@h/t'");
    }

    #[test]
    fn credentials_parse_and_errors_do_not_repeat_them() {
        let c = parse("--chap", "me:gehe:im").unwrap();
        assert_eq!(c, Credentials::new("me", "gehe:im"));
        assert!(!format!("{c:?}").contains("gehe"));
        for bad in ["", "me", "me:", ":geheim"] {
            let e = parse("--chap", bad).unwrap_err();
            assert_eq!(e.to_string(), "--chap takes USER:SECRET, both not empty");
        }
    }

    #[test]
    fn a_chap_file_has_one_or_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chap");
        let allow = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(&path, "me:geheim\n\nyou:other\n").unwrap();
        for open in [0o640, 0o604, 0o620, 0o602, 0o666] {
            allow(open);
            let e = read_file(&path).unwrap_err().to_string();
            assert!(e.contains("open to others") && e.contains(&format!("{open:04o}")), "{e}");
        }
        allow(0o600);
        let (one, two) = read_file(&path).unwrap();
        assert_eq!((one, two), (Credentials::new("me", "geheim"), Some(Credentials::new("you", "other"))));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("is empty"));
        std::fs::write(&path, "geheim\n").unwrap();
        assert!(!read_file(&path).unwrap_err().to_string().contains("geheim"));
    }
}
