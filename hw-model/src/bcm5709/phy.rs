//! The copper PHY at MDIO address 1, and with it the link (CHIP-REGISTERS 2, item 15).
//!
//! Registers 0 to 10 and 15 are those of IEEE 802.3 clause 22; all others are storage, which is what drivers
//! expect of the vendor's shadow registers. A restart of autonegotiation, a carrier that comes, and another
//! forced speed or duplex take the link down and bring it back after [`ChipConfig::autonegotiation_ns`]. The
//! partner negotiates all speeds, and finds a forced one in parallel; 1000BASE-T has no link without
//! negotiation. In loopback there is no link, and what is sent comes back. The PHY has no part in a reset of
//! the chip: it keeps its link. Not modelled: partners that are not a gigabit switch, MDI crossover; pause is
//! negotiated, and no pause frame is ever sent.

use bus::Instant;
use hsi::bcm5709::regs::{self as hw, mii};

use crate::config::{ChipConfig, LinkSpeed};

/// 802.3 clause 22, register 15: 1000BASE-T, full and half duplex.
const ESTATUS: (u32, u16) = (15, 0x3000);
/// OUI and model of a PHY of the 5709's family; drivers only print it.
const IDENTIFIER: (u16, u16) = (0x0143, 0xbca0);
const BMCR_POWER_DOWN: u16 = 0x0800;
const BMCR_ANENABLE: u16 = 0x1000;
const BMCR_LOOPBACK: u16 = 0x4000;
const BMCR_SPEED100: u16 = 0x2000;
const BMCR_SPEED1000: u16 = 0x0040;
const BMCR_FULL_DUPLEX: u16 = 0x0100;
/// What the link depends on: another value takes it down.
const BMCR_LINK: u16 = BMCR_ANENABLE | BMCR_SPEED100 | BMCR_SPEED1000 | BMCR_FULL_DUPLEX;
const ADVERTISE_100: u16 = 0x0180;
const ADVERTISE_10: u16 = 0x0060;
/// Autonegotiation on, full duplex, 1000 Mbit/s.
const BMCR_DEFAULT: u16 = 0x1140;
const ADVERTISE_DEFAULT: u16 = 0x01e1;
const CTRL1000_DEFAULT: u16 = 0x0300;
/// The partner: everything up to 100 Mbit/s and pause, acknowledged; 1000 Mbit/s in both duplexes, both
/// receivers good.
const PARTNER: (u16, u16) = (0x45e1, 0x3c00);
/// What an MDIO bus without a PHY reads.
const NOBODY: u32 = 0xffff;

/// The PHY and the cable.
pub(super) struct Phy {
    registers: [u16; 32],
    /// There is a carrier: cable, wire and configuration agree.
    carrier: bool,
    negotiated: bool,
    /// Negotiation ends then.
    due: Option<Instant>,
    /// The link was down since BMSR was read last (802.3 22.2.4.2.13).
    was_down: bool,
    autonegotiation_ns: u64,
}

impl Phy {
    /// Power-on, with negotiation done.
    pub(super) fn new(config: &ChipConfig) -> Self {
        let mut phy = Self {
            registers: [0; 32],
            carrier: config.link == LinkSpeed::Gigabit,
            negotiated: true,
            due: None,
            was_down: false,
            autonegotiation_ns: config.autonegotiation_ns,
        };
        phy.defaults();
        phy
    }

    fn defaults(&mut self) {
        self.registers = [0; 32];
        let mut set = |at: u32, value: u16| self.registers[at as usize] = value;
        set(mii::BMCR, BMCR_DEFAULT);
        set(mii::PHYSID1, IDENTIFIER.0);
        set(mii::PHYSID2, IDENTIFIER.1);
        set(mii::ADVERTISE, ADVERTISE_DEFAULT);
        set(mii::CTRL1000, CTRL1000_DEFAULT);
        set(ESTATUS.0, ESTATUS.1);
    }

    /// Whether there is a link.
    pub(super) fn link(&self) -> bool {
        let off = BMCR_POWER_DOWN | BMCR_LOOPBACK;
        self.carrier && self.negotiated && self.control() & off == 0 && self.speed().is_some()
    }

    fn control(&self) -> u16 {
        self.registers[mii::BMCR as usize]
    }

    /// What is sent comes back.
    pub(super) fn loops(&self) -> bool {
        self.control() & BMCR_LOOPBACK != 0
    }

    /// The speed that the registers and the partner lead to, in Mbit/s.
    pub(super) fn speed(&self) -> Option<u32> {
        let control = self.control();
        if control & BMCR_ANENABLE == 0 {
            return match control & (BMCR_SPEED100 | BMCR_SPEED1000) {
                BMCR_SPEED100 => Some(100),
                0 => Some(10),
                _ => None,
            };
        }
        let offers = |register: u32, bits: u16| self.registers[register as usize] & bits != 0;
        let common = [
            (1000, offers(mii::CTRL1000, CTRL1000_DEFAULT)),
            (100, offers(mii::ADVERTISE, ADVERTISE_100)),
            (10, offers(mii::ADVERTISE, ADVERTISE_10)),
        ];
        common.into_iter().find(|c| c.1).map(|c| c.0)
    }

    /// The carrier comes or goes. One that comes has still to be negotiated.
    pub(super) fn set_carrier(&mut self, carrier: bool, now: Instant) {
        if carrier && !self.carrier {
            self.negotiate(now);
        }
        self.carrier = carrier;
        self.note();
    }

    fn negotiate(&mut self, now: Instant) {
        self.negotiated = false;
        self.due = Some(Instant::from_nanos(now.as_nanos().saturating_add(self.autonegotiation_ns)));
    }

    fn note(&mut self) {
        self.was_down |= !self.link();
    }

    /// When negotiation ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Ends a negotiation that is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|t| t <= now) {
            self.due = None;
            self.negotiated = true;
        }
    }

    /// One transaction: the value of `EMAC_MDIO_COMM` afterwards.
    pub(super) fn transaction(&mut self, comm: u32, now: Instant) -> u32 {
        let done = comm & !(hw::EMAC_MDIO_COMM_START_BUSY | hw::EMAC_MDIO_COMM_FAIL);
        if comm & hw::EMAC_MDIO_COMM_START_BUSY == 0 {
            return done;
        }
        let present = (comm & hw::EMAC_MDIO_COMM_PHY_ADDR) >> 21 == hw::COPPER_PHY_ADDR;
        let register = (comm & hw::EMAC_MDIO_COMM_REG_ADDR) >> 16;
        match comm & hw::EMAC_MDIO_COMM_COMMAND {
            hw::EMAC_MDIO_COMM_COMMAND_READ => {
                let data = if present { self.read(register).into() } else { NOBODY };
                done & !hw::EMAC_MDIO_COMM_DATA | data
            }
            hw::EMAC_MDIO_COMM_COMMAND_WRITE => {
                if present {
                    self.write(register, comm as u16, now);
                }
                done
            }
            // No command: nothing is carried out, and nothing fails.
            _ => done,
        }
    }

    fn read(&mut self, register: u32) -> u16 {
        let link = self.link();
        match register {
            mii::BMSR => {
                let latched = std::mem::replace(&mut self.was_down, !link);
                let down = if latched || !link { mii::BMSR_LSTATUS } else { 0 };
                let busy = if link { 0 } else { mii::BMSR_ANEGCOMPLETE };
                mii::BMSR_LINK_UP & !down & !busy
            }
            mii::LPA if link => PARTNER.0,
            mii::STAT1000 if link && self.control() & BMCR_ANENABLE != 0 => PARTNER.1,
            mii::LPA | mii::STAT1000 => 0,
            _ => self.registers[register as usize],
        }
    }

    fn write(&mut self, register: u32, value: u16, now: Instant) {
        match register {
            mii::BMSR | mii::PHYSID1 | mii::PHYSID2 | mii::LPA | mii::STAT1000 => {}
            r if r == ESTATUS.0 => {}
            mii::BMCR => {
                let before = self.control();
                if value & mii::BMCR_RESET != 0 {
                    self.defaults();
                } else {
                    self.registers[register as usize] = value & !mii::BMCR_ANRESTART;
                }
                let negotiates = self.control() & BMCR_ANENABLE != 0;
                let restart = value & (mii::BMCR_RESET | mii::BMCR_ANRESTART) != 0 && negotiates;
                let woken = before & !self.control() & (BMCR_LOOPBACK | BMCR_POWER_DOWN) != 0;
                if restart || woken || (before ^ self.control()) & BMCR_LINK != 0 {
                    self.negotiate(now);
                }
                self.note();
            }
            _ => self.registers[register as usize] = value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(register: u32) -> u32 {
        hw::EMAC_MDIO_COMM_START_BUSY | 1 << 21 | register << 16
    }

    fn read(phy: &mut Phy, register: u32) -> u32 {
        let comm = phy.transaction(at(register) | hw::EMAC_MDIO_COMM_COMMAND_READ, Instant::ZERO);
        assert_eq!(comm & hw::EMAC_MDIO_COMM_START_BUSY, 0);
        comm & hw::EMAC_MDIO_COMM_DATA
    }

    fn write(phy: &mut Phy, register: u32, value: u16) {
        let comm = at(register) | hw::EMAC_MDIO_COMM_COMMAND_WRITE | u32::from(value);
        phy.transaction(comm, Instant::ZERO);
    }

    #[test]
    fn a_gigabit_link_as_drivers_read_it() {
        let mut phy = Phy::new(&ChipConfig::default());
        assert_eq!(read(&mut phy, mii::BMSR), 0x796d);
        assert_eq!((read(&mut phy, mii::STAT1000), read(&mut phy, mii::LPA)), (0x3c00, 0x45e1));
        write(&mut phy, mii::BMSR, 0);
        write(&mut phy, 0x18, 0x7007);
        assert_eq!((read(&mut phy, mii::BMSR), read(&mut phy, 0x18)), (0x796d, 0x7007));
        let other = at(0) ^ 3 << 21 | hw::EMAC_MDIO_COMM_COMMAND_READ;
        assert_eq!(phy.transaction(other, Instant::ZERO) & 0xffff, 0xffff, "nobody at address 2");
        assert_eq!(
            phy.transaction(at(0), Instant::ZERO) & hw::EMAC_MDIO_COMM_FAIL,
            0,
            "no command is nothing that fails"
        );
    }

    #[test]
    fn negotiation_takes_the_link_down_and_brings_it_back() {
        for bit in [mii::BMCR_ANRESTART, mii::BMCR_RESET] {
            let mut phy = Phy::new(&ChipConfig::default());
            write(&mut phy, mii::BMCR, BMCR_DEFAULT | bit);
            assert_eq!(read(&mut phy, mii::BMCR), u32::from(BMCR_DEFAULT), "clears itself");
            assert!(!phy.link());
            assert_eq!((read(&mut phy, mii::BMSR), read(&mut phy, mii::STAT1000)), (0x7949, 0));
            let due = phy.next_deadline().expect("a deadline");
            phy.tick(due);
            assert!(phy.link() && phy.next_deadline().is_none());
            assert_eq!(read(&mut phy, mii::BMSR), 0x7969, "the failure is latched until it is read");
            assert_eq!(read(&mut phy, mii::BMSR), 0x796d);
        }
    }

    #[test]
    fn without_a_carrier_there_is_no_link() {
        let mut phy = Phy::new(&ChipConfig { link: LinkSpeed::Down, ..ChipConfig::default() });
        assert!(!phy.link());
        write(&mut phy, mii::BMCR, BMCR_DEFAULT | mii::BMCR_ANRESTART);
        phy.tick(Instant::from_nanos(u64::MAX));
        assert!(!phy.link());
        phy.set_carrier(true, Instant::ZERO);
        assert!(!phy.link(), "it has to be negotiated");
        phy.tick(phy.next_deadline().expect("a deadline"));
        assert!(phy.link());
        write(&mut phy, mii::BMCR, BMCR_POWER_DOWN);
        assert!(!phy.link());
    }

    #[test]
    fn a_forced_speed_takes_the_link_down_and_brings_it_back_at_that_speed() {
        let mut phy = Phy::new(&ChipConfig::default());
        assert_eq!(phy.speed(), Some(1000));
        for (control, speed) in [(BMCR_SPEED100 | BMCR_FULL_DUPLEX, 100), (BMCR_FULL_DUPLEX, 10)] {
            write(&mut phy, mii::BMCR, control);
            assert!(!phy.link());
            phy.tick(phy.next_deadline().expect("a deadline"));
            assert_eq!((phy.link(), phy.speed()), (true, Some(speed)));
            write(&mut phy, mii::BMCR, control);
            assert!(phy.link(), "the same again changes nothing");
        }
        write(&mut phy, mii::BMCR, BMCR_SPEED1000 | BMCR_FULL_DUPLEX);
        phy.tick(Instant::from_nanos(u64::MAX));
        assert!(!phy.link(), "1000BASE-T has to be negotiated");
        write(&mut phy, mii::CTRL1000, 0);
        write(&mut phy, mii::BMCR, BMCR_DEFAULT | mii::BMCR_ANRESTART);
        phy.tick(phy.next_deadline().expect("a deadline"));
        assert_eq!((phy.link(), phy.speed()), (true, Some(100)), "the best that both offer");
        write(&mut phy, mii::BMCR, BMCR_LOOPBACK | BMCR_SPEED1000 | BMCR_FULL_DUPLEX);
        assert!(phy.loops() && !phy.link());
    }
}
