//! Every wish in every situation, without a disk.

use super::*;
use crate::snapshot::Uuid;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    Nothing,
    Original,
    Clone,
    Foreign,
}

const ALL: [Is; 4] = [Is::Nothing, Is::Original, Is::Clone, Is::Foreign];
const WISHES: [Wish; 4] = [Wish::Armed, Wish::Disarmed, Wish::Trial, Wish::Restored];

fn subvolume(uuid: u8, parent: Option<u8>, read_only: bool) -> Subvolume {
    Subvolume {
        name: "x".into(),
        id: 256 + u64::from(uuid),
        uuid: Uuid::from_bytes([uuid; 16]),
        parent_uuid: parent.map(|parent| Uuid::from_bytes([parent; 16])),
        received_uuid: None,
        held_by: 5,
        read_only,
        generation: 1,
        created_generation: 1,
        created: 0,
    }
}

fn make(is: Is) -> Option<Subvolume> {
    match is {
        Is::Nothing => None,
        Is::Original => Some(subvolume(1, None, false)),
        Is::Clone => Some(subvolume(3, Some(2), false)),
        Is::Foreign => Some(subvolume(9, None, false)),
    }
}

fn facts(running: Is, named: Is, other: Is) -> Facts {
    Facts {
        running: make(running).unwrap(),
        named: make(named),
        other: make(other),
        snapshot: Some(subvolume(2, Some(1), true)),
        unmended: Vec::new(),
    }
}

fn names() -> RunNames {
    RunNames::new("r").unwrap()
}

/// Plays an effect on the two names, as the disk would.
fn play(named: Is, other: Is, effect: Effect) -> (Is, Is) {
    match effect {
        Effect::Clone => (named, Is::Clone),
        Effect::Mend => (named, other),
        Effect::Exchange => (other, named),
        Effect::DeleteClone => (named, Is::Nothing),
    }
}

#[test]
fn every_wish_in_every_situation_is_granted_or_refused_and_settles() {
    for wish in WISHES {
        for (running, named, other) in situations() {
            let (mut at, mut granted) = ((named, other), false);
            for _ in 0..MOST_EFFECTS {
                match next_effect(&facts(running, at.0, at.1), wish, "@", &names()) {
                    Err(_) => {
                        // A refusal comes before the first effect, never half way.
                        assert_eq!(at, (named, other), "{wish:?} {running:?}");
                        granted = true;
                    }
                    Ok(None) => {
                        let wanted = match wish {
                            Wish::Armed | Wish::Restored => Is::Clone,
                            Wish::Disarmed | Wish::Trial => Is::Original,
                        };
                        assert_eq!(at.0, wanted, "{wish:?} from {running:?} {named:?} {other:?}");
                        granted = true;
                    }
                    Ok(Some(effect)) => {
                        assert_ne!(at.0, Is::Nothing, "no effect invents a root");
                        // The only tree that is ever deleted is the clone that is not running.
                        if effect == Effect::DeleteClone {
                            assert_eq!((at.1, running), (Is::Clone, Is::Original));
                        }
                        at = play(at.0, at.1, effect);
                        continue;
                    }
                }
                break;
            }
            assert!(granted, "{wish:?} from {running:?} {named:?} {other:?} does not settle");
        }
    }
}

#[test]
fn the_main_line() {
    let next = |wish, named, other| next_effect(&facts(Is::Original, named, other), wish, "@", &names());
    assert_eq!(next(Wish::Armed, Is::Original, Is::Nothing), Ok(Some(Effect::Clone)));
    assert_eq!(next(Wish::Armed, Is::Original, Is::Clone), Ok(Some(Effect::Exchange)));
    assert_eq!(next(Wish::Armed, Is::Clone, Is::Original), Ok(None));
    assert_eq!(next(Wish::Trial, Is::Clone, Is::Original), Ok(Some(Effect::Exchange)));
    assert_eq!(next(Wish::Trial, Is::Original, Is::Clone), Ok(None));
    assert_eq!(next(Wish::Restored, Is::Original, Is::Clone), Ok(Some(Effect::Exchange)));
    assert_eq!(next(Wish::Disarmed, Is::Original, Is::Clone), Ok(Some(Effect::DeleteClone)));
}

#[test]
fn a_machine_that_fell_back_is_not_disarmed() {
    let fell_back = facts(Is::Clone, Is::Clone, Is::Original);
    for wish in [Wish::Armed, Wish::Disarmed, Wish::Trial] {
        let refusal = next_effect(&fell_back, wish, "@", &names()).unwrap_err();
        assert!(matches!(refusal, Refusal::NotOnOriginal(_)), "{refusal}");
    }
    assert_eq!(next_effect(&fell_back, Wish::Restored, "@", &names()), Ok(None));
}

#[test]
fn a_clone_with_stubs_never_gets_the_name() {
    let mut stubs = facts(Is::Original, Is::Original, Is::Clone);
    stubs.unmended.push("var/lib/machines".into());
    for wish in [Wish::Armed, Wish::Restored] {
        assert_eq!(next_effect(&stubs, wish, "@", &names()), Ok(Some(Effect::Mend)));
    }
}

#[test]
fn without_a_sealed_snapshot_nothing_is_done() {
    let mut gone = facts(Is::Original, Is::Original, Is::Clone);
    gone.snapshot = None;
    let mut writable = gone.clone();
    writable.snapshot = Some(subvolume(2, Some(1), false));
    for wish in WISHES {
        assert!(matches!(next_effect(&gone, wish, "@", &names()), Err(Refusal::NoSnapshot(_))));
        assert!(matches!(next_effect(&writable, wish, "@", &names()), Err(Refusal::WritableSnapshot(_))));
    }
    gone.other = None;
    assert_eq!(next_effect(&gone, Wish::Disarmed, "@", &names()), Ok(None));
}

fn situations() -> impl Iterator<Item = (Is, Is, Is)> {
    ALL.into_iter()
        .filter(|running| *running != Is::Nothing)
        .flat_map(|running| ALL.into_iter().map(move |named| (running, named)))
        .flat_map(|(running, named)| ALL.into_iter().map(move |other| (running, named, other)))
        // One tree has one name.
        .filter(|(_, named, other)| named != other || *named == Is::Nothing || *named == Is::Foreign)
}
