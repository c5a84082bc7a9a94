//! `cnic discover`: SendTargets through the card, and names and numbers of units as users meet them.

mod common;

use common::{IQN, Target, cnic, run, text_of};

#[test]
fn the_targets_of_a_portal_are_listed_as_iscsiadm_does() {
    let target = Target::start(&["--lun", "ram:1M"]);
    let line = format!("{},1 {IQN}\n", target.portal);
    let portal = format!("iscsi://{}", target.portal);
    assert_eq!(run(&["discover", &portal]), (0, line.clone(), String::new()));
    let (code, out, _) = run(&["--json", "discover", &portal]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("one object");
    assert_eq!(code, 0);
    assert_eq!(report["targets"][0]["name"], IQN);
    assert_eq!(report["targets"][0]["portals"][0]["address"], target.portal.as_str());
    assert_eq!(report["targets"][0]["portals"][0]["tag"], 1);

    // A target behind the portal is found in any case, and one that is not there is no object.
    assert_eq!(
        run(&["discover", &format!("{portal}/{}", IQN.to_uppercase().replacen("IQN", "iqn", 1))]).1,
        line
    );
    let (code, out, err) = run(&["discover", &format!("{portal}/iqn.2026-01.org.example:other")]);
    assert_eq!((code, out.as_str()), (21, ""));
    assert!(err.contains("iqn.2026-01.org.example:other"), "{err}");

    // libiscsi's own tool lists the same.
    if let Ok(theirs) = std::process::Command::new("iscsi-ls").arg(&portal).output() {
        let (_, theirs, _) = text_of(&theirs);
        assert!(theirs.contains(&format!("Target:{IQN} Portal:{},1", target.portal)), "{theirs}");
    }
}

#[test]
fn discovery_with_credentials_and_without_a_target() {
    let target = Target::start(&["--lun", "ram:1M", "--chap", "user:secret-of-user"]);
    let login = format!("iscsi://user%secret-of-user@{}", target.portal);
    let (code, out, err) = run(&["discover", &login]);
    assert_eq!((code, out), (0, format!("{},1 {IQN}\n", target.portal)), "{err}");
    let wrong = cnic()
        .args(["discover", &format!("iscsi://user@{}", target.portal)])
        .env("LIBISCSI_CHAP_PASSWORD", "secret-of-user")
        .output()
        .expect("cnic runs");
    assert_eq!(text_of(&wrong).0, 0, "the secret comes from the environment");

    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (code, out, err) = run(&["discover", &format!("iscsi://{nobody}")]);
    assert_eq!((code, out.as_str()), (4, ""), "{err}");
    assert!(err.contains(&format!("cannot discover targets at {nobody}")), "{err}");
    assert_eq!(run(&["discover", "iscsi://224.0.0.1"]).0, 7);
}

/// More units than a first REPORT LUNS has room for; from 256 on they have flat space addresses.
#[test]
fn units_beyond_255_are_reached() {
    let luns: Vec<&str> = std::iter::repeat_n(["--lun", "ram:4k"], 300).flatten().collect();
    let target = Target::start(&luns);
    for lun in [255, 256, 299] {
        let (code, _, err) = run(&["info", &target.url("", lun)]);
        assert_eq!(code, 0, "{lun}: {err}");
    }
    let (code, _, err) = run(&["info", &target.url("", 5000)]);
    assert_eq!(code, 21);
    assert!(err.contains("and 284 more") && err.len() < 300, "{err}");
    let (code, out, err) = run(&["io", &target.url("", 299), "verify", "--force", "--bs", "4k"]);
    assert_eq!(code, 0, "{out}{err}");
}
