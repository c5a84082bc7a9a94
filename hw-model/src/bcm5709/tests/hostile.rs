//! A host that writes garbage: whatever it does, the card comes to rest, stays within its tables, never uses
//! a revoked grant, and works again after a reset of the slot.

use bus::inproc::Violation;
use bus::pci::{DmaFault, ResetKind, Width};
use bus::streams::{Seeded, Streams};
use hsi::bcm5709::{ctx, doorbell, regs};
use hsi::kernel::kwq::Kwqe;

use super::control::{close, destroy, reset, update, upload};
use super::host::{Conn, Host, connect, init, offload_pg};
use crate::bcm5709::regs::{REGISTERS, Space};
use crate::config::{ChipConfig, DoorbellLayout};
use crate::tcp::{TcpEvent, TcpId};

struct Garbage(Seeded);

impl Garbage {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.below("garbage", bound)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that means something often enough.
    fn word(&mut self, h: &Host) -> u32 {
        let addr = self.pick(&[h.kwq.table.addr(), h.kcq.table.addr(), h.status.addr(), h.kcq.pages.addr()]);
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => self.below(300) as u32,
            3 => (0x200 + self.below(8) as u32) << 7,
            4 => 0x800 + self.below(4) as u32,
            5 => addr as u32,
            6 => (addr >> 32) as u32,
            _ => self.0.next_u64("garbage") as u32,
        }
    }

    /// A request that a sound host could send, mostly to something that exists; often with one word spoilt.
    fn sound(&mut self, h: &mut Host) -> Vec<Kwqe> {
        let slot = self.below(5) as u32;
        let c = Conn {
            id: self.below(6) as u16,
            context: (0x200 + 2 * slot) << 7,
            pg: 0x800 + self.below(3) as u32,
        };
        let mut kwqes = match self.below(9) {
            0 => init(64, 128).to_vec(),
            1 => h.offload_kwqes(c.id).0.to_vec(),
            2 => vec![offload_pg(c.id.into())],
            3 | 4 => connect(c).to_vec(),
            5 => vec![update(c)],
            6 => vec![close(c)],
            7 => vec![reset(c)],
            _ => vec![destroy(c), upload(c.pg)],
        };
        if self.below(3) == 0 {
            let (which, word) = (self.below(kwqes.len() as u64) as usize, 1 + self.below(7) as usize);
            let mut bytes = *kwqes[which].bytes();
            bytes[4 * word..][..4].copy_from_slice(&self.word(h).to_le_bytes());
            kwqes[which] = Kwqe::from_bytes(bytes);
        }
        kwqes
    }

    /// A KWQE whose opcode is mostly known.
    fn kwqe(&mut self, h: &Host) -> Kwqe {
        const KNOWN: [(u32, u32); 17] = [
            (6, 0),
            (6, 1),
            (6, 2),
            (6, 3),
            (6, 4),
            (6, 5),
            (4, 1),
            (4, 9),
            (4, 14),
            (4, 50),
            (4, 51),
            (4, 52),
            (4, 53),
            (4, 54),
            (2, 4),
            (0, 0),
            (7, 255),
        ];
        let (layer, opcode) = self.pick(&KNOWN);
        let mut bytes = [0; 32];
        for word in bytes.chunks_exact_mut(4) {
            word.copy_from_slice(&self.word(h).to_le_bytes());
        }
        let operand = self.below(4) as u32;
        bytes[..4].copy_from_slice(&(layer << 28 | opcode << 16 | operand).to_le_bytes());
        Kwqe::from_bytes(bytes)
    }

    fn act(&mut self, h: &mut Host) {
        match self.below(12) {
            0 => {
                let r = self.pick(REGISTERS);
                let value = self.word(h);
                match r.space {
                    // Moving the window alone would only make later writes of the script miss.
                    Space::PciCfg => h.write(r.at, value),
                    Space::Grc | Space::Shmem => h.set_indirect(r.at, value),
                }
            }
            1 => {
                let at = self.below(regs::config_space::BAR0_BYTES) & !3;
                let width = self.pick(&[Width::B2, Width::B4]);
                let value = self.word(h).into();
                h.write_any(at, width, value);
            }
            2 => {
                let cid = self.pick(&[ctx::KWQ_CID, ctx::KCQ_CID, 0x200, 0x202, 0x3fff]);
                let offset = self.pick(&[4, 8, 0x40]);
                let value = self.word(h) as u16;
                h.write16(doorbell::mailbox(cid) + offset, value);
            }
            3 => {
                let (cid, at, value) =
                    (self.pick(&[ctx::KWQ_CID, ctx::KCQ_CID]), self.below(10) as u32, self.word(h));
                h.context_write(cid, 4 * at, value);
            }
            4..=6 => {
                let batch = self.sound(h);
                h.post(&batch);
            }
            7 => {
                let batch: Vec<Kwqe> = (0..1 + self.below(6)).map(|_| self.kwqe(h)).collect();
                h.post(&batch);
            }
            8 => {
                let id = TcpId(self.below(300) as u16);
                let event = self.pick(&[TcpEvent::Connected, TcpEvent::Fin, TcpEvent::Rst, TcpEvent::Closed]);
                h.wire.0.borrow_mut().events.push((id, event));
            }
            9 => {
                h.kcq_consumer = h.producer();
                h.write16(doorbell::mailbox(ctx::KCQ_CID) + 4, h.kcq_consumer);
                h.ack_interrupt();
            }
            10 => {
                h.read((self.below(1 << 20) as u32) & !3);
            }
            _ => {
                let budget = 1 + self.below(32) as u32;
                h.step(budget);
            }
        }
    }
}

#[test]
fn garbage_never_hurts_the_card() {
    for seed in 0..60 {
        let doorbells = if seed % 2 == 0 { DoorbellLayout::Mailboxes } else { DoorbellLayout::Pages };
        let config =
            ChipConfig { doorbells, contexts: 4, path_groups: 2, kcqe_backlog: 8, ..ChipConfig::default() };
        let mut h = Host::up(config);
        h.connected(1);
        let mut garbage = Garbage(Seeded::new(seed));
        for _ in 0..400 {
            garbage.act(&mut h);
        }
        h.run();
        let (connections, paths) = h.card.with(|c| c.in_use());
        assert!(connections <= 4 && paths <= 2, "seed {seed}");
        assert!(h.card.with(|c| c.engine().connections()) <= connections, "seed {seed}");
        let revoked = Violation::Dma(DmaFault::Revoked);
        assert!(!h.slot.borrow().violations().contains(&revoked), "seed {seed}");

        h.reset_by_slot(ResetKind::Device);
        h.power();
        h.start();
        h.submit(&init(64, 128));
        assert_eq!(h.answers(), [(0x614, 0)], "seed {seed}");
        h.connected(1);
    }
}
