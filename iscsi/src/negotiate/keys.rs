//! The keys of RFC 7143 13 as a table: where a key may be used, who may send it, and by which function its
//! result comes about. [`super::Negotiation`] runs on this table alone.

/// When a key may be negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// IO: in the login phase of any connection.
    Login,
    /// LO: in the login phase of the leading connection.
    Leading,
    /// ALL: at any time.
    Any,
    /// FFPO: in the full feature phase only.
    FullFeature,
}

/// What a key's value holds for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// SW: the session.
    Session,
    /// CO: the connection.
    Connection,
}

/// Who may send a key first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The initiator.
    Initiator,
    /// The target.
    Target,
    /// Either.
    Both,
}

/// How a key's result comes about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Yes only if both want it.
    And {
        /// Value without negotiation.
        default: bool,
    },
    /// Yes if either wants it.
    Or {
        /// Value without negotiation.
        default: bool,
    },
    /// The smaller number.
    Min {
        /// Value without negotiation.
        default: u32,
        /// Smallest legal value.
        low: u32,
        /// Largest legal value.
        high: u32,
    },
    /// The larger number.
    Max {
        /// Value without negotiation.
        default: u32,
        /// Smallest legal value.
        low: u32,
        /// Largest legal value.
        high: u32,
    },
    /// The first list member that the responder takes; the first of these values is the default.
    Pick(&'static [&'static str]),
    /// A declared number, without an answer.
    DeclareNumber {
        /// Value without declaration.
        default: u32,
        /// Smallest legal value.
        low: u32,
        /// Largest legal value.
        high: u32,
    },
    /// Declared text, without an answer.
    Declare,
    /// Answered by its own module: AuthMethod and SendTargets.
    Special,
    /// Of RFC 3720, to be answered `Reject` (RFC 7143 13.25, 13.26).
    Obsolete,
}

/// One key of the table.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Which key.
    pub key: Key,
    /// Its name on the wire.
    pub name: &'static str,
    /// When it may be negotiated.
    pub usage: Usage,
    /// What its value holds for.
    pub scope: Scope,
    /// Who may send it first.
    pub sender: Sender,
    /// How its result comes about.
    pub rule: Rule,
    /// Whether it may appear in the security stage.
    pub security_stage: bool,
    /// Whether it means nothing in a discovery session.
    pub irrelevant_in_discovery: bool,
}

/// Declares [`Key`] and [`KEYS`]: `name usage scope sender rule stage discovery`.
macro_rules! keys {
    ($($key:ident $name:literal $usage:ident $scope:ident $sender:ident ($rule:expr) $stage:ident $discovery:ident;)*) => {
        /// A key that this implementation knows.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Key { $(#[doc = concat!("`", $name, "`.")] $key,)* }

        /// All keys, in the order of [`Key`].
        pub static KEYS: &[KeySpec] = &[$(KeySpec {
            key: Key::$key,
            name: $name,
            usage: Usage::$usage,
            scope: Scope::$scope,
            sender: Sender::$sender,
            rule: { use Rule::*; $rule },
            security_stage: stage::$stage,
            irrelevant_in_discovery: discovery::$discovery,
        },)*];
    };
}

/// The words of the table's last two columns.
mod stage {
    pub(super) const ANY: bool = true;
    pub(super) const OPERATIONAL: bool = false;
}
mod discovery {
    pub(super) const RELEVANT: bool = false;
    pub(super) const IRRELEVANT: bool = true;
}

/// Largest length that a 24-bit length key can hold.
const LENGTH: u32 = (1 << 24) - 1;

keys! {
    AuthMethod "AuthMethod" Login Connection Both (Special) ANY RELEVANT;
    ChapA "CHAP_A" Login Connection Both (Special) ANY RELEVANT;
    ChapI "CHAP_I" Login Connection Both (Special) ANY RELEVANT;
    ChapC "CHAP_C" Login Connection Both (Special) ANY RELEVANT;
    ChapN "CHAP_N" Login Connection Both (Special) ANY RELEVANT;
    ChapR "CHAP_R" Login Connection Both (Special) ANY RELEVANT;
    InitiatorName "InitiatorName" Login Session Initiator (Declare) ANY RELEVANT;
    InitiatorAlias "InitiatorAlias" Any Session Initiator (Declare) ANY RELEVANT;
    TargetName "TargetName" Login Session Initiator (Declare) ANY RELEVANT;
    TargetAlias "TargetAlias" Any Session Target (Declare) ANY RELEVANT;
    TargetAddress "TargetAddress" Any Session Target (Declare) ANY RELEVANT;
    TargetPortalGroupTag "TargetPortalGroupTag" Login Session Target (Declare) ANY RELEVANT;
    SessionType "SessionType" Leading Session Initiator (Declare) ANY RELEVANT;
    SendTargets "SendTargets" FullFeature Session Initiator (Special) OPERATIONAL RELEVANT;
    HeaderDigest "HeaderDigest" Login Connection Both (Pick(&["None", "CRC32C"])) OPERATIONAL RELEVANT;
    DataDigest "DataDigest" Login Connection Both (Pick(&["None", "CRC32C"])) OPERATIONAL RELEVANT;
    MaxRecvDataSegmentLength "MaxRecvDataSegmentLength" Any Connection Both
        (DeclareNumber { default: 8192, low: 512, high: LENGTH }) OPERATIONAL RELEVANT;
    DefaultTime2Wait "DefaultTime2Wait" Leading Session Both
        (Max { default: 2, low: 0, high: 3600 }) OPERATIONAL RELEVANT;
    DefaultTime2Retain "DefaultTime2Retain" Leading Session Both
        (Min { default: 20, low: 0, high: 3600 }) OPERATIONAL RELEVANT;
    ErrorRecoveryLevel "ErrorRecoveryLevel" Leading Session Both
        (Min { default: 0, low: 0, high: 2 }) OPERATIONAL RELEVANT;
    InitialR2T "InitialR2T" Leading Session Both (Or { default: true }) OPERATIONAL IRRELEVANT;
    ImmediateData "ImmediateData" Leading Session Both (And { default: true }) OPERATIONAL IRRELEVANT;
    MaxBurstLength "MaxBurstLength" Leading Session Both
        (Min { default: 262_144, low: 512, high: LENGTH }) OPERATIONAL IRRELEVANT;
    FirstBurstLength "FirstBurstLength" Leading Session Both
        (Min { default: 65_536, low: 512, high: LENGTH }) OPERATIONAL IRRELEVANT;
    MaxOutstandingR2T "MaxOutstandingR2T" Leading Session Both
        (Min { default: 1, low: 1, high: 65_535 }) OPERATIONAL IRRELEVANT;
    MaxConnections "MaxConnections" Leading Session Both
        (Min { default: 1, low: 1, high: 65_535 }) OPERATIONAL IRRELEVANT;
    DataPDUInOrder "DataPDUInOrder" Leading Session Both (Or { default: true }) OPERATIONAL IRRELEVANT;
    DataSequenceInOrder "DataSequenceInOrder" Leading Session Both (Or { default: true }) OPERATIONAL IRRELEVANT;
    TaskReporting "TaskReporting" Leading Session Both
        (Pick(&["RFC3720", "ResponseFence", "FastAbort"])) OPERATIONAL IRRELEVANT;
    ISCSIProtocolLevel "iSCSIProtocolLevel" Leading Session Both
        (Min { default: 1, low: 0, high: 31 }) OPERATIONAL IRRELEVANT;
    NodeArchitecture "X#NodeArchitecture" Leading Session Both (Declare) OPERATIONAL RELEVANT;
    IFMarker "IFMarker" Login Connection Both (Obsolete) OPERATIONAL RELEVANT;
    OFMarker "OFMarker" Login Connection Both (Obsolete) OPERATIONAL RELEVANT;
    IFMarkInt "IFMarkInt" Login Connection Both (Obsolete) OPERATIONAL RELEVANT;
    OFMarkInt "OFMarkInt" Login Connection Both (Obsolete) OPERATIONAL RELEVANT;
}

impl Key {
    /// The key of that name; `None` for a name that this implementation does not know.
    pub fn lookup(name: &str) -> Option<Key> {
        KEYS.iter().find(|spec| spec.name == name).map(|spec| spec.key)
    }

    /// Its row of the table.
    pub fn spec(self) -> &'static KeySpec {
        &KEYS[self as usize]
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        self.spec().name
    }
}

/// A set of keys.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeySet(u64);

impl KeySet {
    /// Adds `key`; tells whether it is new.
    pub fn insert(&mut self, key: Key) -> bool {
        let new = !self.contains(key);
        self.0 |= 1 << key as u32;
        new
    }

    /// Whether `key` is in the set.
    pub const fn contains(self, key: Key) -> bool {
        self.0 >> key as u32 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_enum_agree() {
        const { assert!(Key::OFMarkInt as u32 <= 63) };
        for (at, spec) in KEYS.iter().enumerate() {
            assert_eq!(spec.key as usize, at);
            assert_eq!(Key::lookup(spec.name), Some(spec.key));
            assert!(!spec.security_stage || !spec.irrelevant_in_discovery);
        }
        assert_eq!(Key::lookup("maxburstlength"), None);
    }
}
