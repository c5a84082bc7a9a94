//! Who has which address: one table of each family, aged and bounded.
//!
//! An entry lives [`LIFE`] after it was last confirmed. ARP and neighbour advertisements overwrite; other
//! packets only confirm or add, so that one with a wrong sender cannot redirect a path. A full table gives up
//! its oldest entry.
//!
//! Who was asked for is remembered for [`ASKED_LIFE`]: the answer counts wherever the neighbour stands, in
//! our network or not. What is asked for is the sender's decision alone, so that nothing is asked whose
//! answer would not be used.

use std::net::IpAddr;
use std::time::Duration;

use bus::Instant;

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// How long an entry is believed without confirmation.
pub(crate) const LIFE: Duration = Duration::from_secs(300);
/// Entries of each family.
pub(crate) const ENTRIES: usize = 16;

/// How long an answer may take.
pub(crate) const ASKED_LIFE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug)]
struct Entry {
    iface: usize,
    ip: IpAddr,
    mac: Mac,
    seen: Instant,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    tables: [Vec<Entry>; 2],
    /// Interface, address, when it was last asked for. As many as both tables hold.
    asked: Vec<(usize, IpAddr, Instant)>,
    pub(crate) evicted: u64,
}

impl Neighbours {
    fn table(&mut self, ip: IpAddr) -> &mut Vec<Entry> {
        &mut self.tables[usize::from(ip.is_ipv6())]
    }

    /// What is believed about `ip` on an interface.
    pub(crate) fn get(&self, iface: usize, ip: IpAddr, now: Instant) -> Option<(Mac, Instant)> {
        let e = self.tables[usize::from(ip.is_ipv6())].iter().find(|e| e.iface == iface && e.ip == ip)?;
        (now.since(e.seen) < LIFE).then_some((e.mac, e.seen))
    }

    /// Somebody is asked for `ip`.
    pub(crate) fn ask(&mut self, iface: usize, ip: IpAddr, now: Instant) {
        self.asked.retain(|a| (a.0, a.1) != (iface, ip) && now.since(a.2) < ASKED_LIFE);
        if self.asked.len() == 2 * ENTRIES {
            self.asked.remove(0);
        }
        self.asked.push((iface, ip, now));
    }

    /// Whether an answer of `ip` is waited for.
    pub(crate) fn was_asked(&self, iface: usize, ip: IpAddr, now: Instant) -> bool {
        self.asked.iter().any(|a| (a.0, a.1) == (iface, ip) && now.since(a.2) < ASKED_LIFE)
    }

    /// `ip` said that it is `mac`. Returns whether anything changed.
    pub(crate) fn learn(&mut self, iface: usize, ip: IpAddr, mac: Mac, now: Instant) -> bool {
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return false;
        }
        let table = self.table(ip);
        if let Some(e) = table.iter_mut().find(|e| e.iface == iface && e.ip == ip) {
            let changed = e.mac != mac;
            (e.mac, e.seen) = (mac, now);
            return changed;
        }
        let entry = Entry { iface, ip, mac, seen: now };
        if table.len() < ENTRIES {
            table.push(entry);
            return true;
        }
        if let Some(oldest) = table.iter_mut().min_by_key(|e| e.seen) {
            *oldest = entry;
            self.evicted += 1;
        }
        true
    }

    /// A packet from `ip` came from `mac`: confirms or adds, never overwrites. Returns whether anything
    /// changed.
    pub(crate) fn heard(&mut self, iface: usize, ip: IpAddr, mac: Mac, now: Instant) -> bool {
        match self.get(iface, ip, now) {
            Some((known, _)) if known != mac => false,
            _ => self.learn(iface, ip, mac, now),
        }
    }

    /// Forgets what is too old.
    pub(crate) fn age(&mut self, now: Instant) {
        for table in &mut self.tables {
            table.retain(|e| now.since(e.seen) < LIFE);
        }
    }

    /// Forgets everything about an interface.
    pub(crate) fn forget(&mut self, iface: usize) {
        for table in &mut self.tables {
            table.retain(|e| e.iface != iface);
        }
        self.asked.retain(|a| a.0 != iface);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.tables.iter_mut().for_each(Vec::clear);
        self.asked.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.tables.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn full_tables_give_up_the_oldest_and_entries_age() {
        let mut n = Neighbours::default();
        let at = |s: u64| Instant::ZERO + Duration::from_secs(s);
        for i in 0..20 {
            assert!(n.learn(0, ip(i), [2, 0, 0, 0, 0, i], at(u64::from(i))));
        }
        assert_eq!((n.len(), n.evicted), (ENTRIES, 4));
        assert_eq!(n.get(0, ip(3), at(20)), None);
        assert_eq!(n.get(1, ip(10), at(20)), None, "interfaces do not share");
        assert!(n.get(0, ip(4), at(303)).is_some());
        assert_eq!(n.get(0, ip(4), at(304)), None);
        n.age(at(310));
        assert_eq!(n.len(), 9);
    }

    #[test]
    fn arp_overwrites_and_traffic_does_not() {
        let mut n = Neighbours::default();
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        assert!(n.heard(0, ip(1), a, Instant::ZERO));
        assert!(!n.heard(0, ip(1), b, Instant::ZERO));
        assert_eq!(n.get(0, ip(1), Instant::ZERO), Some((a, Instant::ZERO)));
        assert!(n.learn(0, ip(1), b, Instant::ZERO));
        assert_eq!(n.get(0, ip(1), Instant::ZERO), Some((b, Instant::ZERO)));
        assert!(!n.learn(0, ip(2), [1, 0, 0, 0, 0, 1], Instant::ZERO), "a group address is nobody's");
    }
}
