//! Pending unit attention conditions of one nexus at one logical unit (SAM-5 5.14): a short queue, highest
//! priority first, without duplicates. One is reported per command.

use crate::scsi::Sense;

/// Pending conditions.
#[derive(Clone, Debug, Default)]
pub(super) struct Attentions {
    pending: Vec<Sense>,
}

impl Attentions {
    /// Most conditions that wait at once. Beyond it the lowest priority is forgotten: all that the initiator
    /// needs to know is then said by the resets ahead of it.
    pub(super) const LIMIT: usize = 8;

    /// Establishes a condition. Power on and reset (ASC 29) goes ahead of everything else and makes earlier
    /// conditions moot.
    pub(super) fn establish(&mut self, sense: Sense) {
        if self.pending.iter().any(|p| p.same_condition(&sense)) {
            return;
        }
        if sense.asc == 0x29 {
            self.pending.retain(|p| p.asc == 0x29);
            self.pending.insert(0, sense);
        } else {
            self.pending.push(sense);
        }
        self.pending.truncate(Self::LIMIT);
    }

    /// Takes the condition to report now.
    pub(super) fn take(&mut self) -> Option<Sense> {
        (!self.pending.is_empty()).then(|| self.pending.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::SenseKey;

    #[test]
    fn order_duplicates_and_limit() {
        let mut attentions = Attentions::default();
        attentions.establish(Sense::COMMANDS_CLEARED);
        attentions.establish(Sense::COMMANDS_CLEARED);
        attentions.establish(Sense::RESERVATIONS_RELEASED);
        assert_eq!(attentions.take(), Some(Sense::COMMANDS_CLEARED));
        attentions.establish(Sense::DEVICE_RESET);
        assert_eq!(attentions.take(), Some(Sense::DEVICE_RESET), "a reset makes the rest moot");
        assert_eq!(attentions.take(), None);
        for ascq in 0..20 {
            attentions.establish(Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, ascq));
        }
        assert_eq!(std::iter::from_fn(|| attentions.take()).count(), Attentions::LIMIT);
    }
}
