//! CHAP (RFC 7143 12.1.3, RFC 1994) with MD5, SHA-256 and SHA3-256, one-way and mutual, at both ends. login
//! feeds each round's CHAP keys to [`ChapInitiator`] or [`ChapTarget`] and sends what they write.
//!
//! Identifiers and challenges come from the caller, who has to draw them afresh and unpredictably for every
//! login. SHA-1 (CHAP_A 6) is not modelled: whoever has it has MD5 as well.

use crate::text::{MAX_BINARY_LEN, TextError, TextWriter, binary, hex_text, list, number};
use md5::{Digest, Md5};
use sha2::Sha256;
use sha3::Sha3_256;

/// Digest algorithms, by their CHAP_A (IANA registry "PPP Authentication Algorithms").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// 5.
    Md5,
    /// 7.
    Sha256,
    /// 8.
    Sha3,
}

/// What the initiator offers; the target takes the first that it knows. 7 comes last, because targets of the
/// IET family (tgtd) take it for SHA-1 and refuse the proof: they are to find 5 before it.
const OFFER: &str = "8,5,7";

impl Algorithm {
    fn parse(code: &str) -> Option<Algorithm> {
        match code {
            "5" => Some(Algorithm::Md5),
            "7" => Some(Algorithm::Sha256),
            "8" => Some(Algorithm::Sha3),
            _ => None,
        }
    }

    fn response_len(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha256 | Algorithm::Sha3 => 32,
        }
    }

    fn code(self) -> u8 {
        match self {
            Algorithm::Md5 => 5,
            Algorithm::Sha256 => 7,
            Algorithm::Sha3 => 8,
        }
    }
}

/// Secrets shorter than this can be guessed from a recorded login (RFC 7143 9.2.1: 96 bits).
pub const MIN_SECRET_LEN: usize = 12;

/// A CHAP secret. It never shows its content, and compares in constant time.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(secret: impl AsRef<[u8]>) -> Secret {
        Secret(secret.as_ref().into())
    }

    /// Whether it is shorter than [`MIN_SECRET_LEN`], which is worth a warning.
    pub const fn is_short(&self) -> bool {
        self.0.len() < MIN_SECRET_LEN
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        same(&self.0, &other.0)
    }
}
impl Eq for Secret {}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("********")
    }
}

impl core::fmt::Display for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("********")
    }
}

/// A CHAP name with its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// CHAP_N.
    pub name: String,
    /// The secret of that name.
    pub secret: Secret,
}

impl Credentials {
    /// Credentials of these.
    pub fn new(name: impl Into<String>, secret: impl AsRef<[u8]>) -> Credentials {
        Credentials { name: name.into(), secret: Secret::new(secret) }
    }
}

/// CHAP_I and CHAP_C of one direction of one login.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    identifier: u8,
    bytes: Vec<u8>,
}

impl core::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Challenge({} bytes)", self.bytes.len())
    }
}

impl Challenge {
    /// A challenge of 1 to 1024 bytes; `None` for another length.
    pub fn new(identifier: u8, bytes: impl Into<Vec<u8>>) -> Option<Challenge> {
        let bytes = bytes.into();
        (1..=MAX_BINARY_LEN).contains(&bytes.len()).then_some(Challenge { identifier, bytes })
    }

    /// The response to this challenge: the digest over identifier, secret and challenge.
    pub fn response(&self, algorithm: Algorithm, secret: &Secret) -> Vec<u8> {
        match algorithm {
            Algorithm::Md5 => self.digest::<Md5>(secret),
            Algorithm::Sha256 => self.digest::<Sha256>(secret),
            Algorithm::Sha3 => self.digest::<Sha3_256>(secret),
        }
    }

    fn digest<D: Digest>(&self, secret: &Secret) -> Vec<u8> {
        let digest =
            D::new().chain_update([self.identifier]).chain_update(&secret.0).chain_update(&self.bytes);
        digest.finalize().to_vec()
    }

    fn write(&self, out: &mut TextWriter) -> Result<(), ChapError> {
        out.push("CHAP_I", self.identifier)?;
        Ok(out.push("CHAP_C", hex_text(&self.bytes))?)
    }

    /// The peer's challenge from its keys.
    fn read(identifier: Option<&str>, challenge: Option<&str>) -> Result<Challenge, ChapError> {
        let (Some(identifier), Some(challenge)) = (identifier, challenge) else {
            return Err(ChapError::Missing);
        };
        let identifier = number(identifier).and_then(|number| u8::try_from(number).ok());
        let bytes = binary(challenge, MAX_BINARY_LEN);
        identifier
            .zip(bytes)
            .and_then(|(identifier, bytes)| Challenge::new(identifier, bytes))
            .ok_or(ChapError::Value)
    }
}

/// Compares in time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b));
    // The optimiser must not turn the fold into an early exit.
    a.len() == b.len() && core::hint::black_box(differences) == 0
}

/// Why an authentication fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChapError {
    /// A key of this round is missing, or one of another round has come.
    #[error("CHAP keys are missing or out of order")]
    Missing,
    /// A value is malformed.
    #[error("malformed CHAP value")]
    Value,
    /// No common algorithm.
    #[error("no common CHAP algorithm (MD5, SHA-256 and SHA3-256 are supported)")]
    Algorithm,
    /// The peer sent our own challenge back, to have us compute its response.
    #[error("the peer reflects our CHAP challenge")]
    Reflection,
    /// The peer's name or response is wrong.
    #[error("wrong CHAP name or response")]
    Wrong,
    /// The initiator asks the target to authenticate itself, for which it has no credentials.
    #[error("mutual CHAP is not configured")]
    NoMutual,
    /// The answer does not fit the text limits.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// The CHAP keys of one received list.
#[derive(Clone, Copy, Default)]
pub struct ChapKeys<'a> {
    /// CHAP_A: algorithms.
    pub algorithm: Option<&'a str>,
    /// CHAP_I: identifier.
    pub identifier: Option<&'a str>,
    /// CHAP_C: challenge.
    pub challenge: Option<&'a str>,
    /// CHAP_N: name.
    pub name: Option<&'a str>,
    /// CHAP_R: response.
    pub response: Option<&'a str>,
}

impl ChapKeys<'_> {
    /// Whether none of them came.
    pub const fn is_empty(&self) -> bool {
        self.algorithm.is_none() && self.asks_nothing() && self.name.is_none() && self.response.is_none()
    }

    const fn asks_nothing(&self) -> bool {
        self.identifier.is_none() && self.challenge.is_none()
    }

    /// Whether name and response are those of `owner` to `challenge`.
    fn prove(
        &self,
        owner: &Credentials,
        challenge: &Challenge,
        algorithm: Algorithm,
    ) -> Result<(), ChapError> {
        let (Some(name), Some(response)) = (self.name, self.response) else { return Err(ChapError::Missing) };
        let response = binary(response, algorithm.response_len()).ok_or(ChapError::Value)?;
        let right = same(&response, &challenge.response(algorithm, &owner.secret));
        if same(name.as_bytes(), owner.name.as_bytes()) && right { Ok(()) } else { Err(ChapError::Wrong) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// Nothing has come yet.
    Start,
    /// The algorithm has been named.
    Algorithm,
    /// Our response (initiator) or our challenge (target) has been sent.
    Response,
    Done,
}

/// The initiator's half.
#[derive(Clone, Debug)]
pub struct ChapInitiator {
    own: Credentials,
    mutual: Option<(Credentials, Challenge)>,
    /// The target's choice, for both directions.
    algorithm: Algorithm,
    round: Round,
}

impl ChapInitiator {
    /// An initiator that proves `own`, and with `mutual` demands that the target answers the challenge as
    /// those credentials.
    pub fn new(own: Credentials, mutual: Option<(Credentials, Challenge)>) -> ChapInitiator {
        ChapInitiator { own, mutual, algorithm: Algorithm::Md5, round: Round::Start }
    }

    /// Writes the offer of algorithms, once the target has chosen CHAP.
    ///
    /// # Errors
    /// [`ChapError::Text`].
    pub fn start(&mut self, out: &mut TextWriter) -> Result<(), ChapError> {
        self.round = Round::Algorithm;
        Ok(out.push("CHAP_A", OFFER)?)
    }

    /// Takes the target's keys and writes the answer. In a mutual login this is called
    /// twice: for the target's challenge, and for its response.
    ///
    /// # Errors
    /// The login has to be given up.
    pub fn receive(&mut self, keys: &ChapKeys<'_>, out: &mut TextWriter) -> Result<(), ChapError> {
        match self.round {
            Round::Algorithm => {
                let chosen = keys.algorithm.ok_or(ChapError::Missing)?;
                self.algorithm = Algorithm::parse(chosen).ok_or(ChapError::Algorithm)?;
                let challenge = Challenge::read(keys.identifier, keys.challenge)?;
                if self.mutual.as_ref().is_some_and(|(_, ours)| ours.bytes == challenge.bytes) {
                    return Err(ChapError::Reflection);
                }
                out.push("CHAP_N", &self.own.name)?;
                out.push("CHAP_R", hex_text(&challenge.response(self.algorithm, &self.own.secret)))?;
                self.round = Round::Done;
                if let Some((_, challenge)) = &self.mutual {
                    challenge.write(out)?;
                    self.round = Round::Response;
                }
                Ok(())
            }
            Round::Response => {
                if let Some((target, challenge)) = &self.mutual {
                    keys.prove(target, challenge, self.algorithm)?;
                }
                self.round = Round::Done;
                Ok(())
            }
            Round::Start | Round::Done => Err(ChapError::Missing),
        }
    }

    /// Whether our response is out: the initiator may ask for the next stage.
    pub fn has_responded(&self) -> bool {
        matches!(self.round, Round::Response | Round::Done)
    }

    /// Whether the authentication is complete, the target's part included.
    pub fn is_done(&self) -> bool {
        self.round == Round::Done
    }
}

/// The target's half.
#[derive(Clone, Debug)]
pub struct ChapTarget {
    challenge: Challenge,
    algorithm: Algorithm,
    round: Round,
}

impl ChapTarget {
    /// A target that asks `challenge`.
    pub fn new(challenge: Challenge) -> ChapTarget {
        ChapTarget { challenge, algorithm: Algorithm::Md5, round: Round::Start }
    }

    /// Takes the initiator's keys and writes the answer. `lookup` gives the credentials of a CHAP name,
    /// `mutual` is what the target proves itself with when asked.
    ///
    /// # Errors
    /// The login has to be refused with status 0201.
    pub fn receive(
        &mut self,
        keys: &ChapKeys<'_>,
        lookup: impl FnOnce(&str) -> Option<Secret>,
        mutual: Option<&Credentials>,
        out: &mut TextWriter,
    ) -> Result<(), ChapError> {
        match self.round {
            Round::Start => {
                let offered = keys.algorithm.ok_or(ChapError::Missing)?;
                self.algorithm = list(offered).find_map(Algorithm::parse).ok_or(ChapError::Algorithm)?;
                out.push("CHAP_A", self.algorithm.code())?;
                self.challenge.write(out)?;
                self.round = Round::Response;
                Ok(())
            }
            Round::Response => {
                let name = keys.name.ok_or(ChapError::Missing)?;
                let secret = lookup(name).ok_or(ChapError::Wrong)?;
                keys.prove(&Credentials { name: name.into(), secret }, &self.challenge, self.algorithm)?;
                if !keys.asks_nothing() {
                    let asked = Challenge::read(keys.identifier, keys.challenge)?;
                    if asked.bytes == self.challenge.bytes {
                        return Err(ChapError::Reflection);
                    }
                    let own = mutual.ok_or(ChapError::NoMutual)?;
                    out.push("CHAP_N", &own.name)?;
                    out.push("CHAP_R", hex_text(&asked.response(self.algorithm, &own.secret)))?;
                }
                self.round = Round::Done;
                Ok(())
            }
            Round::Algorithm | Round::Done => Err(ChapError::Missing),
        }
    }

    /// Whether the next keys have to be the initiator's proof.
    pub fn expects_proof(&self) -> bool {
        self.round == Round::Response
    }

    /// Whether the initiator has proven itself.
    pub fn is_done(&self) -> bool {
        self.round == Round::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Pairs, base64_text};

    fn keys(text: &[u8]) -> ChapKeys<'_> {
        let mut keys = ChapKeys::default();
        for pair in Pairs::new(text) {
            let (key, value) = pair.unwrap();
            let slot = match key {
                "CHAP_A" => &mut keys.algorithm,
                "CHAP_I" => &mut keys.identifier,
                "CHAP_C" => &mut keys.challenge,
                "CHAP_N" => &mut keys.name,
                "CHAP_R" => &mut keys.response,
                other => panic!("{other}"),
            };
            *slot = Some(value);
        }
        keys
    }

    fn challenge(byte: u8) -> Challenge {
        Challenge::new(byte, vec![byte; 16]).unwrap()
    }

    /// One whole exchange; who fails, and why.
    fn exchange(
        initiator: &mut ChapInitiator,
        known: &Credentials,
        own: Option<&Credentials>,
    ) -> Result<(), ChapError> {
        let mut target = ChapTarget::new(challenge(7));
        let mut from_initiator = TextWriter::new();
        initiator.start(&mut from_initiator)?;
        for _ in 0..2 {
            let lookup = |name: &str| (name == known.name).then(|| known.secret.clone());
            let mut from_target = TextWriter::new();
            target.receive(&keys(from_initiator.as_bytes()), lookup, own, &mut from_target)?;
            if target.is_done() && initiator.is_done() {
                break;
            }
            from_initiator = TextWriter::new();
            initiator.receive(&keys(from_target.as_bytes()), &mut from_initiator)?;
        }
        assert!(target.is_done() && initiator.is_done());
        Ok(())
    }

    #[test]
    fn known_response() {
        // digest(0x01 "secretsecret" 0x000102030405060708090a0b0c0d0e0f), computed with other
        // implementations.
        let challenge = Challenge::new(1, (0..16).collect::<Vec<u8>>()).unwrap();
        let got = |algorithm| hex_text(&challenge.response(algorithm, &Secret::new("secretsecret")));
        assert_eq!(got(Algorithm::Md5), "0x226dc576c33f04ff9c3a200ffe35f442");
        assert_eq!(
            got(Algorithm::Sha256),
            "0x024aef34e176668b34ec2bf7f5525e3bf7f0e94d7cec77cb07d08c3d5a8e23ca"
        );
        assert_eq!(
            got(Algorithm::Sha3),
            "0xe2bd0aba5f885a39aa4fbebccc63203c2f728f034cbaf009b44c2f0c5544f172"
        );
    }

    #[test]
    fn one_way_and_mutual() {
        let (user, node) =
            (Credentials::new("user", "secret-of-user"), Credentials::new("node", "secret-of-node"));
        let mutual = Some((node.clone(), challenge(8)));
        let run = |own: &Credentials, mutual: Option<_>, target: Option<&Credentials>| {
            exchange(&mut ChapInitiator::new(own.clone(), mutual), &user, target)
        };
        assert_eq!(run(&user, None, None), Ok(()));
        assert_eq!(run(&user, None, Some(&node)), Ok(()));
        assert_eq!(run(&user, mutual.clone(), Some(&node)), Ok(()));
        assert_eq!(run(&Credentials::new("user", "wrong"), None, None), Err(ChapError::Wrong));
        assert_eq!(run(&Credentials::new("other", "secret-of-user"), None, None), Err(ChapError::Wrong));
        assert_eq!(run(&user, mutual.clone(), None), Err(ChapError::NoMutual));
        assert_eq!(run(&user, mutual.clone(), Some(&Credentials::new("node", "x"))), Err(ChapError::Wrong));
        assert_eq!(run(&user, mutual, Some(&Credentials::new("x", "secret-of-node"))), Err(ChapError::Wrong));
    }

    /// The target takes the first algorithm of the list that it knows; both directions use it, and a proof by
    /// another is wrong.
    #[test]
    fn the_algorithm_is_the_first_that_both_know() {
        let (user, node) =
            (Credentials::new("user", "secret-of-user"), Credentials::new("node", "secret-of-node"));
        for (offer, chosen, algorithm) in
            [("8,7,5", "8", Algorithm::Sha3), ("6,7,5", "7", Algorithm::Sha256), ("5,8", "5", Algorithm::Md5)]
        {
            let run = |proof: Algorithm| {
                let mut target = ChapTarget::new(challenge(7));
                let mut out = TextWriter::new();
                target.receive(&keys(format!("CHAP_A={offer}\0").as_bytes()), |_| None, None, &mut out)?;
                assert!(out.as_bytes().starts_with(format!("CHAP_A={chosen}\0").as_bytes()));
                assert!(target.expects_proof());
                let response = hex_text(&challenge(7).response(proof, &user.secret));
                let answer = format!("CHAP_N=user\0CHAP_R={response}\0CHAP_I=8\0CHAP_C=0x0808\0");
                let mut out = TextWriter::new();
                target.receive(
                    &keys(answer.as_bytes()),
                    |_| Some(user.secret.clone()),
                    Some(&node),
                    &mut out,
                )?;
                let asked = Challenge::new(8, vec![8, 8]).unwrap();
                let proven = keys(out.as_bytes()).prove(&node, &asked, algorithm);
                assert_eq!(proven, Ok(()), "the other direction uses the same");
                Ok(())
            };
            assert_eq!(run(algorithm), Ok(()), "{offer}");
            let other = if algorithm == Algorithm::Sha3 { Algorithm::Sha256 } else { Algorithm::Sha3 };
            assert!(matches!(run(other), Err(ChapError::Wrong | ChapError::Value)), "{offer}");
        }
    }

    #[test]
    fn reflected_challenges_are_refused_at_both_ends() {
        let (user, node) =
            (Credentials::new("user", "secret-of-user"), Credentials::new("node", "secret-of-node"));
        let reflected = Challenge::new(9, challenge(7).bytes).unwrap();
        let mut initiator = ChapInitiator::new(user.clone(), Some((node.clone(), reflected)));
        assert_eq!(exchange(&mut initiator, &user, Some(&node)), Err(ChapError::Reflection));
        let mut target = ChapTarget::new(challenge(7));
        let mut out = TextWriter::new();
        target.receive(&keys(b"CHAP_A=6,5\0"), |_| None, Some(&node), &mut out).unwrap();
        let response = hex_text(&challenge(7).response(Algorithm::Md5, &user.secret));
        let asks =
            format!("CHAP_N=user\0CHAP_R={response}\0CHAP_I=1\0CHAP_C={}\0", hex_text(&challenge(7).bytes));
        let got =
            target.receive(&keys(asks.as_bytes()), |_| Some(user.secret.clone()), Some(&node), &mut out);
        assert_eq!(got, Err(ChapError::Reflection));
    }

    #[test]
    fn malformed_keys_are_refused() {
        let secret = || Some(Secret::new("secret-of-user"));
        let round1 = |text: &[u8]| {
            ChapTarget::new(challenge(7)).receive(&keys(text), |_| secret(), None, &mut TextWriter::new())
        };
        assert_eq!(round1(b"CHAP_A=5,6,7,8\0"), Ok(()));
        for bad in [&b"CHAP_A=\0"[..], b"CHAP_A=56\0", b"CHAP_A=6\0"] {
            assert_eq!(round1(bad), Err(ChapError::Algorithm));
        }
        assert_eq!(round1(b"CHAP_N=user\0CHAP_R=0x00\0"), Err(ChapError::Missing));
        let round2 = |text: String| {
            let mut target = ChapTarget::new(challenge(7));
            target.receive(&keys(b"CHAP_A=5\0"), |_| None, None, &mut TextWriter::new()).unwrap();
            target.receive(&keys(text.as_bytes()), |_| secret(), None, &mut TextWriter::new())
        };
        let right = challenge(7).response(Algorithm::Md5, &Secret::new("secret-of-user"));
        assert_eq!(round2(format!("CHAP_N=user\0CHAP_R={}\0", base64_text(&right))), Ok(()));
        assert_eq!(round2(format!("CHAP_N=0xuser\0CHAP_R={}\0", hex_text(&right))), Ok(()));
        assert_eq!(round2(format!("CHAP_N=user\0CHAP_R={}\0", hex_text(&right[1..]))), Err(ChapError::Wrong));
        assert_eq!(round2(format!("CHAP_N=user\0CHAP_R={}00\0", hex_text(&right))), Err(ChapError::Value));
        assert_eq!(round2("CHAP_R=0x00\0".into()), Err(ChapError::Missing));
        assert_eq!(
            round2(format!("CHAP_N=user\0CHAP_R={}\0CHAP_I=1\0", hex_text(&right))),
            Err(ChapError::Missing)
        );
        let initiator = |text: &[u8]| {
            let mut initiator = ChapInitiator::new(Credentials::new("user", "secret-of-user"), None);
            initiator.start(&mut TextWriter::new()).unwrap();
            initiator.receive(&keys(text), &mut TextWriter::new())
        };
        assert_eq!(initiator(b"CHAP_A=5\0CHAP_I=255\0CHAP_C=0x01\0"), Ok(()));
        assert_eq!(initiator(b"CHAP_A=5\0CHAP_I=256\0CHAP_C=0x01\0"), Err(ChapError::Value));
        assert_eq!(initiator(b"CHAP_A=5\0CHAP_I=1\0CHAP_C=0x\0"), Err(ChapError::Value));
        assert_eq!(initiator(b"CHAP_A=6\0CHAP_I=1\0CHAP_C=0x01\0"), Err(ChapError::Algorithm));
        assert_eq!(initiator(b"CHAP_A=5\0"), Err(ChapError::Missing));
    }

    #[test]
    fn limits_and_masking() {
        assert!(Challenge::new(0, vec![0; 1024]).is_some());
        assert!(Challenge::new(0, vec![0; 1025]).is_none() && Challenge::new(0, vec![]).is_none());
        assert!(Secret::new("elevenchars").is_short() && !Secret::new("twelve chars").is_short());
        let shown = format!("{:?} {}", Credentials::new("user", "hunter2"), Secret::new("hunter2"));
        assert!(shown.contains("user") && !shown.contains("hunter2"), "{shown}");
    }
}
