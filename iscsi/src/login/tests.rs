//! Logins of [`InitiatorLogin`] against [`TargetLogin`], and each end against a peer that breaks the rules.

use super::*;
use crate::chap::{Challenge, Credentials, Secret};
use crate::negotiate::{DigestOffer, LoginParams, SessionParams};
use crate::pdu::{Bhs, Header, LoginRequest, LoginResponse, NopOut, Stage};
use crate::sendtargets::TargetAddress;
use crate::serial::Sn;
use proptest::prelude::*;

const INITIATOR: &str = "iqn.2001-04.com.example:host";
const TARGET: &str = "iqn.2001-04.com.example:disk1";
const TSIH: u16 = 77;
/// The tag of all requests of a login.
const ITT: u32 = 0x1234_5678;

/// A target with one name.
struct House {
    admission: Admission,
    user: Credentials,
    place: Result<u16, LoginStatus>,
    placed: Vec<Identity>,
}

impl House {
    fn new(admission: Admission) -> House {
        let user = Credentials::new("user", "secret-of-user");
        House { admission, user, place: Ok(TSIH), placed: Vec::new() }
    }
}

impl LoginPolicy for House {
    fn admit(&mut self, who: &Identity) -> Admission {
        match who.target_name.as_deref() {
            None | Some(TARGET) => self.admission.clone(),
            Some(_) => Admission::Refuse(LoginStatus::TargetNotFound),
        }
    }

    fn secret(&mut self, _who: &Identity, chap_name: &str) -> Option<Secret> {
        (chap_name == self.user.name).then(|| self.user.secret.clone())
    }

    fn place(&mut self, who: &Identity) -> Result<u16, LoginStatus> {
        self.placed.push(who.clone());
        self.place
    }
}

fn challenge(byte: u8) -> Challenge {
    Challenge::new(byte, vec![byte; 16]).unwrap()
}

fn target_config() -> TargetConfig {
    TargetConfig {
        params: LoginParams::default(),
        portal_group_tag: 1,
        first_stat_sn: Sn(0xffff_ffff),
        command_window: 32,
        challenge: challenge(1),
    }
}

fn initiator_config() -> InitiatorConfig {
    InitiatorConfig {
        initiator_name: INITIATOR.into(),
        initiator_alias: Some("host".into()),
        target_name: Some(TARGET.into()),
        isid: [0, 2, 0x3d, 0, 0, 1],
        cid: 0,
        cmd_sn: Sn(5),
        chap: None,
        params: LoginParams::default(),
    }
}

#[derive(Debug)]
enum Ended {
    Done(Box<LoginDone>, Box<TargetDone>),
    Redirect(TargetAddress, bool),
    /// The initiator's failure, and the target's if it refused.
    Failed(LoginFailure, Option<LoginFailure>),
}

/// Runs a login to its end; `rounds` counts the requests.
fn run(config: InitiatorConfig, target: TargetConfig, house: &mut House) -> (Ended, u32) {
    let (mut initiator, mut request) = InitiatorLogin::start(config).unwrap();
    let mut target = TargetLogin::new(target);
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(request.header.is_immediate() && request.data.len() == request.header.data_len());
        request.header.itt.set(ITT);
        let step = target.receive(house, &request.header, &request.data);
        let (response, done, failure) = match step {
            TargetStep::Send(response) => (response, None, None),
            TargetStep::Done(response, done) => (response, Some(done), None),
            TargetStep::Refused(response, failure) => (response, None, failure),
        };
        assert_eq!(response.header.itt.get(), ITT);
        assert_eq!(response.data.len(), response.header.data_len());
        assert!(response.header.view::<LoginResponse>().is_ok());
        match initiator.receive(&response.header, &response.data) {
            InitiatorStep::Send(next) => request = next,
            InitiatorStep::Done(ours) => return (Ended::Done(ours, done.expect("both are done")), rounds),
            InitiatorStep::Redirect { address, permanent } => {
                return (Ended::Redirect(address, permanent), rounds);
            }
            InitiatorStep::Failed(ours) => return (Ended::Failed(ours, failure), rounds),
        }
    }
}

fn expect_done(ended: Ended) -> (LoginDone, TargetDone) {
    match ended {
        Ended::Done(ours, theirs) => (*ours, *theirs),
        other => panic!("{other:?}"),
    }
}

fn expect_failure(ended: Ended) -> (LoginFailure, Option<LoginFailure>) {
    match ended {
        Ended::Failed(ours, theirs) => (ours, theirs),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_authentications_with_all_digests() {
    use DigestOffer::{Crc32c, Crc32cOrNone, None as NoDigest, NoneOrCrc32c};
    let user = Credentials::new("user", "secret-of-user");
    let wrong = Credentials::new("user", "wrong-of-user");
    let node = Credentials::new("node", "secret-of-node");
    let fake = Credentials::new("node", "not-the-node's");
    let mutual = |node: &Credentials| Some((node.clone(), challenge(2)));
    let chap = |own: &Credentials, mutual| Some(ChapConfig { own: own.clone(), mutual });
    let demands = |mutual: Option<&Credentials>| Admission::Chap { mutual: mutual.cloned() };
    let auth_failed = LoginFailure::Refused(LoginStatus::AuthenticationFailure);
    let unproven = LoginFailure::Chap(ChapError::Wrong);
    // Initiator's credentials, target's demand, outcome.
    let cases = [
        (None, Admission::Open, None),
        (chap(&user, None), Admission::Open, Some(auth_failed)),
        (chap(&user, None), demands(None), None),
        (chap(&user, None), demands(Some(&node)), None),
        (chap(&user, mutual(&node)), demands(Some(&node)), None),
        (None, demands(None), Some(auth_failed)),
        (chap(&wrong, None), demands(None), Some(auth_failed)),
        (chap(&wrong, mutual(&node)), demands(Some(&node)), Some(auth_failed)),
        (chap(&user, mutual(&node)), demands(Some(&fake)), Some(unproven)),
        (chap(&user, mutual(&node)), demands(None), Some(auth_failed)),
        (chap(&user, mutual(&node)), Admission::Open, Some(auth_failed)),
    ];
    let digests = [NoDigest, Crc32c, Crc32cOrNone, NoneOrCrc32c];
    for (chap, admission, failure) in cases {
        for (header, data, theirs) in
            digests.iter().flat_map(|&h| digests.iter().flat_map(move |&d| digests.map(|t| (h, d, t))))
        {
            let mut config = InitiatorConfig { chap: chap.clone(), ..initiator_config() };
            (config.params.header_digest, config.params.data_digest) = (header, data);
            let mut target = target_config();
            (target.params.header_digest, target.params.data_digest) = (theirs, theirs);
            let mut house = House::new(admission.clone());
            let (ended, rounds) = run(config, target, &mut house);
            // The first of our list that the target takes.
            let agreed = |ours: DigestOffer| ours.text().split(',').find(|one| theirs.text().contains(one));
            match (failure, agreed(header), agreed(data)) {
                (Some(failure), ..) => {
                    let (got, _) = expect_failure(ended);
                    assert_eq!((got, got.outcome()), (failure, LoginOutcome::AuthenticationFailed));
                    assert!(house.placed.is_empty() || failure == unproven);
                }
                (None, Some(header), Some(data)) => {
                    let (ours, theirs) = expect_done(ended);
                    assert_eq!(ours.params.header_digest, header == "CRC32C");
                    assert_eq!(ours.params.data_digest, data == "CRC32C");
                    assert_eq!(theirs.params.header_digest, ours.params.header_digest);
                    assert!(rounds <= 4, "{rounds}");
                }
                (None, ..) => {
                    let (got, _) = expect_failure(ended);
                    assert!(matches!(got, LoginFailure::Negotiation(NegotiationError::Refused(..))), "{got}");
                }
            }
        }
    }
}

#[test]
fn a_login_ends_with_agreement_on_everything() {
    let mut house = House::new(Admission::Open);
    let mut target = target_config();
    target.params.max_burst_length = 1 << 20;
    target.params.max_recv_data_segment_length = 65536;
    let (ended, rounds) = run(initiator_config(), target, &mut house);
    let (ours, theirs) = expect_done(ended);
    assert_eq!(rounds, 2);
    assert_eq!((ours.tsih, theirs.tsih, ours.portal_group_tag), (TSIH, TSIH, Some(1)));
    // Two responses from ffffffff on.
    assert_eq!((ours.exp_stat_sn, theirs.stat_sn), (Sn(1), Sn(1)));
    assert_eq!((ours.exp_cmd_sn, ours.max_cmd_sn, theirs.exp_cmd_sn), (Sn(5), Sn(36), Sn(5)));
    assert_eq!(ours.params.max_send_data_segment_length, 65536);
    assert_eq!(theirs.params.max_send_data_segment_length, 262_144);
    assert_eq!((ours.params.max_burst_length, ours.params.initial_r2t), (1 << 20, false));
    assert_eq!(theirs.who.initiator_alias.as_deref(), Some("host"));
    assert_eq!(house.placed, [theirs.who]);
}

#[test]
fn discovery() {
    let config = InitiatorConfig { target_name: None, ..initiator_config() };
    let (ours, theirs) = expect_done(run(config, target_config(), &mut House::new(Admission::Open)).0);
    assert_eq!(theirs.who.target_name, None);
    assert_eq!(ours.params.max_send_data_segment_length, 262_144);
    let defaults = SessionParams::default();
    assert_eq!(ours.params.max_burst_length, defaults.max_burst_length, "not negotiated in discovery");
}

#[test]
fn refusals_and_redirects() {
    let config =
        InitiatorConfig { target_name: Some("iqn.2001-04.com.example:other".into()), ..initiator_config() };
    let (ours, _) = expect_failure(run(config, target_config(), &mut House::new(Admission::Open)).0);
    assert_eq!(ours, LoginFailure::Refused(LoginStatus::TargetNotFound));
    assert_eq!(ours.outcome(), LoginOutcome::Fatal);
    let mut full = House { place: Err(LoginStatus::OutOfResources), ..House::new(Admission::Open) };
    let (ours, _) = expect_failure(run(initiator_config(), target_config(), &mut full).0);
    assert_eq!((ours.outcome(), full.placed.len()), (LoginOutcome::Retry, 1));
    let address = TargetAddress::parse("[2001:db8::5]:860,3").unwrap();
    let mut moved = House::new(Admission::Redirect { address, permanent: true });
    let (ended, _) = run(initiator_config(), target_config(), &mut moved);
    let Ended::Redirect(address, true) = ended else { panic!("{ended:?}") };
    assert_eq!((address.to_string().as_str(), address.tag), ("[2001:db8::5]:860", None));
}

/// The target's answer to one request.
fn ask(
    login: &mut TargetLogin,
    request: &Bhs,
    text: &str,
) -> (LoginStatus, Option<(Stage, Option<Stage>)>, String) {
    let data = text.replace('|', "\0");
    let (TargetStep::Send(pdu) | TargetStep::Done(pdu, _) | TargetStep::Refused(pdu, _)) =
        login.receive(&mut House::new(Admission::Chap { mutual: None }), request, data.as_bytes());
    let text = String::from_utf8(pdu.data).unwrap().replace('\0', "|");
    (pdu.header.status(), pdu.header.stages(), text)
}

fn request(stage: Stage, next: Option<Stage>, more: bool) -> LoginRequest {
    let mut request = LoginRequest::new();
    request.set_stages(stage, next, more);
    request
}

#[test]
fn target_refuses_what_the_rfc_forbids() {
    let (security, operational) = (Stage::Security, Stage::Operational);
    let names = "InitiatorName=iqn.2001-04.com.example:host|TargetName=iqn.2001-04.com.example:disk1|";
    let status = |header: &Bhs, text: &str| ask(&mut TargetLogin::new(target_config()), header, text).0;
    let first = request(security, Some(operational), false);
    assert_eq!(status(&first, "SessionType=Normal|AuthMethod=CHAP|"), LoginStatus::MissingParameter);
    assert_eq!(status(&first, "InitiatorName=iqn.2001-04.com.example:host|"), LoginStatus::MissingParameter);
    assert_eq!(status(&first, "InitiatorName=joe|SessionType=Discovery|"), LoginStatus::InitiatorError);
    let odd = format!("{names}SessionType=Strange|");
    assert_eq!(status(&first, &odd), LoginStatus::SessionTypeNotSupported);
    assert_eq!(status(&first, &format!("{names}{names}")), LoginStatus::InitiatorError);
    assert_eq!(status(&first, &format!("{names}MaxBurstLength=512|")), LoginStatus::InitiatorError);
    assert_eq!(status(&first, "garbage"), LoginStatus::InitiatorError);
    // Around authentication.
    assert_eq!(status(&first, &format!("{names}AuthMethod=None|")), LoginStatus::AuthenticationFailure);
    assert_eq!(status(&first, names), LoginStatus::AuthenticationFailure);
    let skip = request(operational, Some(Stage::FullFeature), false);
    assert_eq!(status(&skip, names), LoginStatus::AuthenticationFailure);
    let early = format!("{names}CHAP_A=5|");
    assert_eq!(status(&first, &early), LoginStatus::InitiatorError);
    // Headers.
    let mut version = first;
    version.version_min = 1;
    assert_eq!(status(&version, names), LoginStatus::UnsupportedVersion);
    let mut nop = NopOut::new();
    nop.set_immediate(true);
    assert_eq!(status(&nop, ""), LoginStatus::InvalidDuringLogin);
    let mut stages = first;
    stages.flags = 0x85;
    assert_eq!(status(&stages, names), LoginStatus::InitiatorError);
    assert_eq!(status(&first, &"x".repeat(8193)), LoginStatus::InitiatorError);
}

#[test]
fn target_holds_the_initiator_to_its_first_request() {
    let begin = || {
        let mut login = TargetLogin::new(target_config());
        let names = "InitiatorName=iqn.2001-04.com.example:host|TargetName=iqn.2001-04.com.example:disk1|\
            AuthMethod=CHAP,None|";
        let got = ask(&mut login, &request(Stage::Security, Some(Stage::Operational), false), names);
        let text = "TargetPortalGroupTag=1|AuthMethod=CHAP|".to_owned();
        assert_eq!(got, (LoginStatus::Success, Some((Stage::Security, None)), text));
        login
    };
    let stay = request(Stage::Security, None, false);
    let (status, _, text) = ask(&mut begin(), &stay, "CHAP_A=5|");
    assert_eq!((status, &text[..17]), (LoginStatus::Success, "CHAP_A=5|CHAP_I=1"));
    assert_eq!(ask(&mut begin(), &stay, "CHAP_N=user|").0, LoginStatus::AuthenticationFailure);
    assert_eq!(ask(&mut begin(), &stay, "AuthMethod=None|").0, LoginStatus::InitiatorError);
    type Change = fn(&mut LoginRequest);
    let changes: [(Change, LoginStatus); 8] = [
        (|r| r.itt.set(9), LoginStatus::InitiatorError),
        (|r| r.isid[5] ^= 1, LoginStatus::InitiatorError),
        (|r| r.tsih.set(9), LoginStatus::InitiatorError),
        (|r| r.cid.set(9), LoginStatus::InitiatorError),
        (|r| r.cmd_sn.set(9), LoginStatus::InitiatorError),
        (|r| r.version_max = 1, LoginStatus::InitiatorError),
        (|r| r.version_min = 1, LoginStatus::UnsupportedVersion),
        (|r| r.exp_stat_sn.set(9), LoginStatus::Success),
    ];
    for (at, (change, status)) in changes.into_iter().enumerate() {
        let mut other = stay;
        change(&mut other);
        assert_eq!(ask(&mut begin(), &other, "CHAP_A=5|").0, status, "change {at}");
    }
    let moved = request(Stage::Operational, None, false);
    assert_eq!(ask(&mut begin(), &moved, "").0, LoginStatus::InitiatorError);
    let mut login = begin();
    let last = (2..).find(|_| ask(&mut login, &stay, "").0 != LoginStatus::Success).unwrap();
    assert_eq!(last, MAX_EXCHANGES + 1);
}

#[test]
fn names_may_be_repeated_but_not_changed() {
    let names = "InitiatorName=iqn.2001-04.com.example:host|TargetName=iqn.2001-04.com.example:disk1|\
        SessionType=Normal|";
    for (repeated, want) in [
        (names.to_owned(), LoginStatus::Success),
        (names.replace("disk1", "disk2"), LoginStatus::InitiatorError),
        (names.replace("host", "guest"), LoginStatus::InitiatorError),
        (names.replace("Normal", "Discovery"), LoginStatus::InitiatorError),
        ("MaxBurstLength=512|MaxBurstLength=512|".to_owned(), LoginStatus::InitiatorError),
    ] {
        let (mut login, mut house) = (TargetLogin::new(target_config()), House::new(Admission::Open));
        let mut send = |stage, next, text: &str| {
            let data = text.replace('|', "\0");
            let (TargetStep::Send(pdu) | TargetStep::Done(pdu, _) | TargetStep::Refused(pdu, _)) =
                login.receive(&mut house, &request(stage, Some(next), false), data.as_bytes());
            pdu.header.status()
        };
        assert_eq!(send(Stage::Security, Stage::Operational, names), LoginStatus::Success);
        assert_eq!(send(Stage::Operational, Stage::FullFeature, &repeated), want, "{repeated}");
    }
}

#[test]
fn long_text_is_continued_in_both_directions() {
    let mut login = TargetLogin::new(target_config());
    let mut house = House::new(Admission::Open);
    // 200 unknown keys in two PDUs, to be answered with more than 8192 bytes.
    let names = "InitiatorName=iqn.2001-04.com.example:host\0TargetName=iqn.2001-04.com.example:disk1\0";
    let keys: String = (0..200).map(|n| format!("X-{n:050}=1\0")).collect();
    let text = format!("{names}{keys}");
    let mut step = |request: LoginRequest, data: &[u8]| match login.receive(&mut house, &request, data) {
        TargetStep::Send(pdu) => (pdu.header.flags, pdu.data),
        other => panic!("{other:?}"),
    };
    let (first, second) = text.as_bytes().split_at(8192);
    let (operational, full) = (Stage::Operational, Some(Stage::FullFeature));
    assert_eq!(step(request(operational, None, true), first), (0x04, vec![]));
    let (flags, mut answer) = step(request(operational, full, false), second);
    assert_eq!((flags, answer.len()), (0x44, 8192), "more to come, so no transit yet");
    let (flags, rest) = step(request(operational, None, false), &[]);
    assert_eq!(flags, 0x04);
    answer.extend(rest);
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("=NotUnderstood\0").count(), 200);
    assert!(
        answer.starts_with("TargetPortalGroupTag=1\0")
            && answer.contains("MaxRecvDataSegmentLength=262144\0")
    );
    let end = login.receive(&mut house, &request(operational, full, false), &[]);
    assert!(matches!(end, TargetStep::Done(..)), "{end:?}");
}

/// An initiator's reaction to a series of responses.
fn react(chap: Option<ChapConfig>, responses: &[(u8, &str)]) -> InitiatorStep {
    let (mut login, _) = InitiatorLogin::start(InitiatorConfig { chap, ..initiator_config() }).unwrap();
    let mut last = None;
    for (at, (flags, text)) in responses.iter().enumerate() {
        let mut header = LoginResponse::new();
        header.flags = *flags;
        header.isid = initiator_config().isid;
        header.stat_sn.set(at as u32);
        last = Some(login.receive(&header, text.replace('|', "\0").as_bytes()));
    }
    last.expect("at least one response")
}

#[test]
fn initiator_gives_up_on_a_target_that_breaks_the_rules() {
    let failed = |chap: Option<ChapConfig>, responses: &[(u8, &str)]| match react(chap, responses) {
        InitiatorStep::Failed(failure) => failure,
        other => panic!("{other:?}"),
    };
    let user = Credentials::new("user", "secret-of-user");
    let one_way = Some(ChapConfig { own: user.clone(), mutual: None });
    let both = Some(ChapConfig {
        own: user,
        mutual: Some((Credentials::new("node", "secret-of-node"), challenge(2))),
    });
    assert_eq!(failed(None, &[(0x00, "AuthMethod=CHAP|")]), LoginFailure::AuthMethod);
    assert_eq!(failed(both.clone(), &[(0x00, "AuthMethod=None|")]), LoginFailure::AuthMethod);
    let unasked = LoginFailure::Protocol("stage change that was not asked for");
    assert_eq!(failed(both.clone(), &[(0x81, "")]), unasked);
    assert_eq!(failed(None, &[(0x83, "AuthMethod=None|")]), unasked);
    let chap_missing = LoginFailure::Chap(ChapError::Missing);
    // Not unnoticed: whoever wants no proof is refused, whether it says so or is silent about it.
    assert_eq!(failed(one_way.clone(), &[(0x00, "AuthMethod=None|")]), LoginFailure::AuthMethod);
    assert_eq!(failed(one_way.clone(), &[(0x81, "AuthMethod=CHAP|")]), unasked);
    assert_eq!(failed(one_way.clone(), &[(0x81, "")]), unasked);
    let unproven = [(0, "AuthMethod=CHAP|"), (0, "CHAP_A=5|CHAP_I=1|CHAP_C=0x01|"), (0x81, "")];
    assert_eq!(failed(both, &unproven), chap_missing);
    let reflected = format!("CHAP_A=5|CHAP_I=1|CHAP_C=0x{}|", "02".repeat(16));
    let mutual = Some(ChapConfig {
        own: Credentials::new("user", "x"),
        mutual: Some((Credentials::new("node", "y"), challenge(2))),
    });
    let got = failed(mutual, &[(0, "AuthMethod=CHAP|"), (0, &reflected)]);
    assert_eq!(got, LoginFailure::Chap(ChapError::Reflection));
    assert_eq!(failed(None, &[(0x04, "")]), LoginFailure::Protocol("response in another stage"));
    assert!(matches!(failed(None, &[(0xc1, "")]), LoginFailure::Pdu(_)));
    let no_tsih = [(0x81, "AuthMethod=None|"), (0x87, "")];
    assert_eq!(failed(None, &no_tsih), LoginFailure::Protocol("final response without TSIH"));
    let open_proposal = [(0x81, "AuthMethod=None|"), (0x87, "TaskReporting=RFC3720|")];
    assert_eq!(failed(None, &open_proposal), LoginFailure::Protocol("proposal in the final response"));
    let endless = vec![(0u8, ""); MAX_EXCHANGES as usize];
    assert_eq!(failed(None, &endless), LoginFailure::TooManyExchanges);
}

#[test]
fn initiator_checks_numbers_and_identifiers() {
    let after = |write: &dyn Fn(&mut LoginResponse)| {
        let (mut login, _) = InitiatorLogin::start(initiator_config()).unwrap();
        let mut header = LoginResponse::new();
        header.isid = initiator_config().isid;
        assert!(matches!(login.receive(&header, b"AuthMethod=None\0"), InitiatorStep::Send(_)));
        header.stat_sn.set(1);
        write(&mut header);
        matches!(login.receive(&header, b""), InitiatorStep::Send(_))
    };
    assert!(after(&|_| ()));
    assert!(!after(&|header| header.stat_sn.set(2)));
    assert!(!after(&|header| header.isid = [0; 6]));
    assert!(!after(&|header| header.version_active = 1));
}

#[test]
fn a_continued_answer_is_collected() {
    let step = react(None, &[(0x40, "TargetPortalGroupTag=1|Auth"), (0x00, "Method=None|")]);
    let InitiatorStep::Send(request) = step else { panic!("{step:?}") };
    assert_eq!((request.header.flags, request.data.len()), (0x81, 0));
    let step = react(None, &[(0x40, "TargetPortalGroupTag=1|Auth")]);
    let InitiatorStep::Send(request) = step else { panic!("{step:?}") };
    assert_eq!((request.header.flags, request.data.len()), (0x00, 0), "an empty PDU asks for the rest");
}

#[test]
fn credentials_are_not_shown() {
    let chap = Some(ChapConfig { own: Credentials::new("user", "hunter2hunter2"), mutual: None });
    let (login, request) = InitiatorLogin::start(InitiatorConfig { chap, ..initiator_config() }).unwrap();
    let shown = format!("{login:?} {request:?}");
    assert!(shown.contains("user") && !shown.contains("hunter2"), "{shown}");
}

proptest! {
    #[test]
    fn any_request_is_answered(
        headers in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..6),
        texts in proptest::collection::vec("(InitiatorName|TargetName|AuthMethod|CHAP_A|CHAP_N|MaxBurstLength|X-a)=[a-z0-9.:,-]{0,9}\0", 1..6),
    ) {
        let mut login = TargetLogin::new(target_config());
        for ((opcode, flags), text) in headers.iter().zip(&texts) {
            let mut bytes = [0; 48];
            (bytes[0], bytes[1]) = (if *opcode < 32 { *opcode } else { 0x43 }, *flags);
            let step = login.receive(&mut House::new(Admission::Open), Bhs::from_bytes(&bytes), text.as_bytes());
            let (TargetStep::Send(pdu) | TargetStep::Done(pdu, _) | TargetStep::Refused(pdu, _)) = step;
            prop_assert!(pdu.header.view::<LoginResponse>().is_ok());
        }
    }

    #[test]
    fn any_response_is_judged(
        flags in proptest::collection::vec(prop_oneof![Just(0u8), Just(4), Just(0x81), Just(0x87), any::<u8>()], 1..6),
        texts in proptest::collection::vec(
            "(AuthMethod|CHAP_A|CHAP_C|TargetAddress|HeaderDigest|MaxBurstLength|X-a)=(CHAP|None|5|512|[a-z0-9.:,-]{0,9})\0",
            1..6,
        ),
        mutual: bool,
    ) {
        let mutual = mutual.then(|| (Credentials::new("node", "secret-of-node"), challenge(2)));
        let chap = Some(ChapConfig { own: Credentials::new("user", "secret-of-user"), mutual: mutual.clone() });
        let config = InitiatorConfig { chap, ..initiator_config() };
        let (mut login, _) = InitiatorLogin::start(config).unwrap();
        for (at, (flags, text)) in flags.iter().zip(&texts).enumerate() {
            let mut header = LoginResponse::new();
            header.flags = *flags;
            header.isid = initiator_config().isid;
            header.tsih.set(1);
            header.stat_sn.set(at as u32);
            match login.receive(&header, text.as_bytes()) {
                InitiatorStep::Send(request) => prop_assert!(request.header.view::<LoginRequest>().is_ok()),
                // No text of this strategy proves that the target knows its secret.
                InitiatorStep::Done(_) => prop_assert!(mutual.is_none()),
                _ => return Ok(()),
            }
        }
    }
}
