//! Every kind of login, under load and across a reset, in virtual time.

use driver::adapter::OperatorRequest;
use driver::iscsid::ChapRecord;
use iscsi::chap::{Credentials, Secret};
use iscsi::negotiate::DigestOffer;
use lab::world::WorldError;
use tests::rig::{Rig, RigConfig, prompt_recovery_bound};

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret) }
}

fn through_a_reset(config: RigConfig) {
    let bound = 2 * prompt_recovery_bound(&config.record);
    let sessions = u64::from(config.sessions);
    let mut rig = Rig::start(config);
    rig.run_ms(200);
    rig.reset(OperatorRequest::ChangeMtu(9000));
    assert!(rig.recovered(bound), "L1");
    rig.run_ms(100);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.logins, 2 * sessions);
    assert_eq!(run.target.failed_logins, 0);
}

#[test]
fn chap() {
    let mut config = RigConfig::new(4);
    config.auth.chap = Some(credentials("user", "twelve bytes"));
    config.record.settings.chap = ChapRecord::one_way(credentials("user", "twelve bytes"));
    through_a_reset(config);
}

#[test]
fn mutual_chap() {
    let mut config = RigConfig::new(4);
    config.auth.chap = Some(credentials("user", "twelve bytes"));
    config.auth.mutual = Some(credentials("disk", "another twelve"));
    config.record.settings.chap =
        ChapRecord::mutual(credentials("user", "twelve bytes"), credentials("disk", "another twelve"));
    through_a_reset(config);
}

#[test]
fn a_wrong_secret_ends_at_once_and_leaves_nothing() {
    let mut config = RigConfig::new(1);
    config.auth.chap = Some(credentials("user", "twelve bytes"));
    config.record.settings.chap = ChapRecord::one_way(credentials("user", "twelve wrong"));
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    let start = rig.world.now();
    let error = rig.world.login(&record, 1).expect_err("the secret is wrong");
    assert!(matches!(error, WorldError::Daemon(_)) && !error.to_string().contains("twelve"), "{error}");
    assert!(rig.world.now() - start < std::time::Duration::from_secs(1));
    rig.finish().assert_sound();
}

#[test]
fn header_and_data_digests() {
    let mut config = RigConfig::new(4);
    config.record.settings.header_digest = DigestOffer::Crc32c;
    config.record.settings.data_digest = DigestOffer::Crc32c;
    through_a_reset(config);
}

#[test]
fn solicited_data_only() {
    let mut config = RigConfig::new(4);
    let s = &mut config.record.settings;
    (s.initial_r2t, s.immediate_data, s.max_outstanding_r2t) = (true, false, 4);
    (s.max_burst_length, s.first_burst_length, s.max_recv_data_segment_length) = (4096, 512, 512);
    through_a_reset(config);
}
