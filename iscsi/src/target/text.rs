//! Text Requests in full feature phase (RFC 7143 11.10, 11.11): SendTargets, and MaxRecvDataSegmentLength
//! declared anew. One exchange at a time. A request whose only key makes no sense is rejected rather than
//! answered NotUnderstood: libiscsi's suite wants that, and an initiator that asks one thing is told no
//! either way.

use super::server::TargetServer;
use super::session::{Link, Numbering, Session, TextExchange};
use crate::names::normalize;
use crate::negotiate::Key;
use crate::pdu::{Header, RESERVED_TAG, RejectReason, TextRequest, TextResponse, flags};
use crate::sendtargets::write_target;
use crate::text::{Pairs, TextSplitter, TextWriter, number};

const SEND_TARGETS: &str = "SendTargets";

impl TargetServer {
    /// Why a Text Request is rejected.
    pub(super) fn text_objection(
        &self,
        session: &Session,
        request: &TextRequest,
        data: &[u8],
    ) -> Option<RejectReason> {
        let ttt = request.ttt.get();
        let goes_on = ttt == session.text.ttt && request.itt.get() == session.text.itt;
        if ttt != RESERVED_TAG && !goes_on {
            return Some(RejectReason::ProtocolError);
        }
        let whole =
            request.flags & flags::CONTINUE == 0 && (ttt == RESERVED_TAG || !session.text.request.is_open());
        if !whole {
            return None;
        }
        let mut pairs = Pairs::new(data);
        let (first, second) = (pairs.next(), pairs.next());
        match (first, second) {
            (Some(Err(_)), _) | (_, Some(Err(_))) => Some(RejectReason::InvalidField),
            (Some(Ok((key, value))), None) => {
                let understood = match key {
                    SEND_TARGETS => {
                        value == "All"
                            || (value.is_empty() && session.target.is_some())
                            || normalize(value).is_ok()
                    }
                    _ => Key::lookup(key).is_some(),
                };
                (!understood).then_some(RejectReason::InvalidField)
            }
            _ => None,
        }
    }

    /// A Text Request whose turn has come.
    pub(super) fn text_request(
        &mut self,
        link: &mut Link,
        session: &mut Session,
        request: &TextRequest,
        data: &[u8],
    ) {
        if request.ttt.get() == RESERVED_TAG {
            // A new exchange, whatever was open.
            let (ttt, itt) = (session.text.ttt, request.itt.get());
            session.text = TextExchange { ttt, itt, ..TextExchange::default() };
        }
        let mut response = TextResponse::new();
        response.itt = request.itt;
        response.lun = request.lun;
        let more_to_come = request.flags & flags::CONTINUE != 0;
        if session.text.answer.is_none() {
            match session.text.request.push(data, more_to_come) {
                Ok(Some(list)) => {
                    let answer = self.answer(link, session, &list);
                    session.text.answer = Some(TextSplitter::new(answer.into_bytes()));
                }
                Ok(None) => {}
                Err(_) => {
                    session.text = TextExchange { ttt: session.text.ttt, ..TextExchange::default() };
                    return link.reject(
                        &session.window,
                        request.wire(),
                        RejectReason::OutOfResources,
                        &mut self.journal,
                    );
                }
            }
        }
        let limit = session.send_limit() as usize;
        let (piece, more) = match &mut session.text.answer {
            Some(answer) => answer.next_piece(limit),
            None => (&[][..], false),
        };
        let ends = !more && !more_to_come && request.is_final();
        response.flags = match (ends, more) {
            (true, _) => flags::FINAL,
            (false, true) => flags::CONTINUE,
            (false, false) => 0,
        };
        if ends {
            response.ttt.set(RESERVED_TAG);
        } else {
            session.text.ttt = next_tag(session.text.ttt);
            response.ttt.set(session.text.ttt);
        }
        link.send(&session.window, &mut response, piece, Numbering::Consume);
        if !more {
            session.text.answer = None;
        }
    }

    /// The answer to a whole list.
    fn answer(&self, link: &Link, session: &mut Session, list: &[u8]) -> TextWriter {
        let mut out = TextWriter::new();
        for (key, value) in Pairs::new(list).map_while(Result::ok) {
            match (key, Key::lookup(key)) {
                (SEND_TARGETS, _) => self.send_targets(link, session, value, &mut out),
                (_, Some(Key::MaxRecvDataSegmentLength)) => {
                    // Declared, so not answered.
                    if let Some(length) = number(value).filter(|n| (512..1 << 24).contains(n)) {
                        session.params.max_send_data_segment_length = length as u32;
                    }
                }
                (_, Some(_)) => drop(out.push(key, "Reject")),
                // A key that leaves no room for its answer stays unanswered.
                (_, None) => drop(out.push(key, "NotUnderstood")),
            }
        }
        out
    }

    /// Names and addresses: all targets in a discovery session, its own in a normal one.
    fn send_targets(&self, link: &Link, session: &Session, value: &str, out: &mut TextWriter) {
        let wanted = normalize(value);
        let others = self.portals.iter().filter(|portal| link.local.as_ref() != Some(portal));
        let addresses: Vec<_> = link.local.iter().chain(others).cloned().collect();
        for (at, target) in self.targets.iter().enumerate() {
            let mine = session.target.is_none_or(|own| own == at);
            let asked = value == "All" || value.is_empty() || wanted.as_ref() == Ok(&target.key);
            // A list that is full ends with its last whole target.
            if mine && asked && write_target(out, &target.name, &addresses).is_err() {
                break;
            }
        }
    }
}

/// The tag of the next part of an exchange; never the reserved one.
fn next_tag(tag: u32) -> u32 {
    match tag.wrapping_add(1) {
        RESERVED_TAG => 1,
        tag => tag,
    }
}
