//! ARP: whoever is asked for exists.

use super::Responder;

const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

impl Responder {
    pub(super) fn arp(&mut self, frame: &[u8], at: usize) {
        let Some(arp) = frame.get(at..at + 28) else { return };
        let (sender, target) = (&arp[14..18], &arp[24..28]);
        if arp[..8] != REQUEST || sender == [0; 4] || sender == target {
            return;
        }
        let mac = Self::mac_of([target[0], target[1], target[2], target[3]]);
        let Some(answer) = self.answers.push(&frame[..at + 28]) else { return };
        self.counters.arps += 1;
        answer.copy_within(6..12, 0);
        answer[6..12].copy_from_slice(&mac);
        let a = &mut answer[at..];
        a[7] = 2;
        a.copy_within(8..18, 18);
        a[8..14].copy_from_slice(&mac);
        a[14..18].copy_from_slice(&arp[24..28]);
    }
}
