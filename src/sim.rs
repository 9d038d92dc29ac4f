//! A machine in memory that can lose power at any effect.
//!
//! It keeps what survives a power cut (journal, subvolumes, names, the store) apart from what does not (the running root, what
//! this process has proven), so that a test can cut the power anywhere and look at what a real machine would have left.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::driver::{Host, Trouble};
use crate::evidence::{
    BackupProof, BootFacts, BootId, Confirmation, FallbackFacts, FallbackMethod, Gate, GuaranteeLevel,
    HealthFacts, JournalFacts, LastRehearsal, Plan, PreflightFacts, Promise, RehearsalFacts, RehearsalProof,
    RehearsalRule, RestoreReport, RestoredFacts, SampleFacts, SnapshotFacts, SnapshotSet, TreeReport,
    UpgradeFacts, Volume, VolumeId, backup::TreeProof,
};
use crate::finding::Finding;
use crate::machine::{Destination, Entry, Passage, Record, State, Undo};

mod world;

pub use world::{Content, Rehearsals, Store, World, manifest_id, plan, volume_id};

use world::ROOT;

type Result<T> = std::result::Result<T, Trouble>;

const SNAPSHOT: &str = "before";
const CLONE: &str = "clone";

/// The plan of a world.
fn planned(world: &World) -> Plan {
    let level = if world.method.is_one_shot() { GuaranteeLevel::A } else { GuaranteeLevel::B };
    let promise = Promise { method: world.method, level, reason: "the simulation says so".into() };
    let required = matches!(world.rehearsals, Rehearsals::Passed | Rehearsals::Failed);
    let max_age_seconds = if world.rehearsals == Rehearsals::None { 0 } else { 3600 };
    let rehearsal = RehearsalRule { required, max_age_seconds };
    Plan { promise, rehearsal, ..plan(world.commit) }
}

#[derive(Debug, Clone)]
struct SimVolume {
    id: VolumeId,
    parent: Option<VolumeId>,
    content: Content,
    read_only: bool,
}

/// The simulated machine.
#[derive(Debug, Clone)]
pub struct Sim {
    /// What the world does.
    pub world: World,
    /// The journal: what was appended and survived.
    pub journal: Vec<Record>,
    /// Effects left until the power goes; `None`: it stays.
    pub power: Option<u32>,
    /// How often the upgrader ran.
    pub upgrades: u32,
    /// How often the machine booted.
    pub boots: u32,
    /// Whether the backup was restored, or attested by the rule, in this process.
    pub proven_here: bool,
    /// Whether it was so when the upgrader started.
    pub proven_at_upgrade: bool,
    /// How often the backup was restored whole.
    pub full_restores: u32,
    /// Whether the load balancer sends traffic here.
    pub in_traffic: bool,
    /// Seconds since 1970; a test may let time pass.
    pub clock: u64,
    names: BTreeMap<&'static str, SimVolume>,
    running: VolumeId,
    next_volume: u32,
    /// The boot loader will boot the trial once. On disk.
    one_shot: bool,
    /// This boot is the one-shot boot of the trial.
    as_trial: bool,
    on: bool,
}

impl Sim {
    /// A machine that runs the old release and has just planned a run.
    #[must_use]
    pub fn planned(world: World) -> Self {
        let root = SimVolume { id: volume_id(1), parent: None, content: Content::Old, read_only: false };
        Self {
            world,
            journal: vec![Record::Planned { plan: planned(&world) }],
            power: None,
            upgrades: 0,
            boots: 1,
            proven_here: false,
            proven_at_upgrade: false,
            full_restores: 0,
            in_traffic: true,
            clock: 1_800_000_000,
            running: root.id.clone(),
            names: BTreeMap::from([(ROOT, root)]),
            next_volume: 2,
            one_shot: false,
            as_trial: false,
            on: true,
        }
    }

    /// Whether the machine runs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Boots again: memory is lost, disks are not. A one-shot boot is used up by being tried, and a trial that dies leads to the
    /// next boot at once. Otherwise the root's name decides, unless the loader falls back by itself.
    pub fn power_on(&mut self) {
        let once = std::mem::take(&mut self.one_shot);
        self.as_trial = once && !self.world.falls_back;
        let first = matches!(self.journal.last(), Some(Record::RebootStarted { .. }));
        let by_name = self.world.method == FallbackMethod::ByName;
        let instead =
            self.names.get(CLONE).filter(|_| self.as_trial || by_name && first && self.world.falls_back);
        if let Some(volume) = instead.or_else(|| self.names.get(ROOT)) {
            self.running = volume.id.clone();
        }
        self.boots += 1;
        self.on = true;
        self.power = None;
        self.proven_here = false;
    }

    /// Starts the process again in the same boot: only memory is lost.
    pub fn power_on_same_boot(&mut self) {
        self.on = true;
        self.power = None;
        self.proven_here = false;
    }

    /// What the running root holds.
    #[must_use]
    pub fn running_content(&self) -> Option<Content> {
        self.names.values().find(|volume| volume.id == self.running).map(|volume| volume.content)
    }

    /// What would boot next.
    #[must_use]
    pub fn next_content(&self) -> Option<Content> {
        self.names.get(ROOT).map(|volume| volume.content)
    }

    /// The subvolumes that a run has made and that are still there.
    #[must_use]
    pub fn leftovers(&self) -> usize {
        self.names.len() - 1
    }

    /// One moment at which the power can go.
    fn tick(&mut self) -> Result<()> {
        if let Some(left) = &mut self.power {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.on = false,
            }
        }
        if self.on { Ok(()) } else { Err(Trouble::new("the power is gone")) }
    }

    fn create(&mut self, name: &'static str, from: &SimVolume, read_only: bool) {
        let id = volume_id(self.next_volume);
        self.next_volume += 1;
        self.names.insert(name, SimVolume { id, parent: Some(from.id.clone()), read_only, ..from.clone() });
    }

    fn named(&self, name: &str) -> Result<SimVolume> {
        self.names.get(name).cloned().ok_or_else(|| Trouble::new(format!("there is no subvolume {name}")))
    }

    fn exchange(&mut self) {
        if let (Some(root), Some(clone)) = (self.names.remove(ROOT), self.names.remove(CLONE)) {
            self.names.insert(ROOT, clone);
            self.names.insert(CLONE, root);
        }
    }

    /// Makes the root's name lead to the planned root, or to the clone of the snapshot. Probes first.
    fn switch_to_planned_root(&mut self, plan: &Plan, wanted: bool) -> Result<()> {
        if !wanted && !self.names.contains_key(CLONE) {
            let snapshot = self.named(SNAPSHOT)?;
            self.tick()?;
            self.create(CLONE, &snapshot, false);
        }
        self.tick()?;
        if (self.named(ROOT)?.id == plan.root.uuid) != wanted {
            self.exchange();
        }
        self.tick()
    }

    fn switch_facts(&self) -> Result<BootFacts> {
        let volume = |volume: &SimVolume| Volume { uuid: volume.id.clone(), parent: volume.parent.clone() };
        let running = self.names.values().find(|volume| volume.id == self.running);
        let running = running.ok_or_else(|| Trouble::new("the running root has lost its name"))?;
        let plan = planned(&self.world);
        let release = if running.content == Content::New { plan.to } else { plan.from };
        Ok(BootFacts {
            boot: BootId::new(self.boots.to_string()),
            running: volume(running),
            named: volume(&self.named(ROOT)?),
            release,
            token: self.as_trial.then(|| plan.run.clone()),
            one_shot: Some(self.one_shot),
            uptime: 60,
        })
    }

    fn snapshot_facts(&self) -> SnapshotFacts {
        let found = self.names.get(SNAPSHOT);
        SnapshotFacts {
            name: SNAPSHOT.into(),
            volume: found.map(|volume| Volume { uuid: volume.id.clone(), parent: volume.parent.clone() }),
            read_only: found.is_some_and(|volume| volume.read_only),
            boot: vec![],
            boot_faults: vec![],
        }
    }

    fn health(&self, healthy: bool) -> HealthFacts {
        let failed = if healthy { vec![] } else { vec!["the site does not answer".into()] };
        HealthFacts { checked: 3, failed, noted: vec![], soaked: 1 }
    }
}

impl Host for Sim {
    fn replay(&mut self) -> Result<State> {
        self.journal
            .iter()
            .try_fold(State::New, State::apply)
            .map_err(|error| Trouble::new(format!("the journal does not replay: {error}")))
    }

    fn append(&mut self, entry: Entry) -> Result<()> {
        self.tick()?;
        self.replay()?.apply(entry.record()).map_err(|error| Trouble::new(error.to_string()))?;
        self.journal.push(entry.record().clone());
        self.tick()
    }

    fn boot(&mut self) -> Result<BootFacts> {
        self.tick()?;
        self.switch_facts()
    }

    fn preflight(&mut self, plan: &Plan) -> Result<PreflightFacts> {
        self.tick()?;
        let inhibitor = Finding::inhibitor("sim", "the simulation says no.", "none");
        Ok(PreflightFacts {
            findings: if self.world.inhibited { vec![inhibitor] } else { vec![] },
            today: "2026-11-26".into(),
            baseline: manifest_id(5),
            baseline_items: 7,
            journal: self.journal_location(plan)?,
        })
    }

    fn journal_location(&mut self, plan: &Plan) -> Result<JournalFacts> {
        self.tick()?;
        Ok(JournalFacts { volume: Some(volume_id(1000)), scope: vec![plan.root.uuid.clone()] })
    }

    fn back_up(&mut self, plan: &Plan) -> Result<RestoreReport> {
        self.tick()?;
        let differences = match self.world.store {
            Store::Unreadable => return Err(Trouble::new("the store cannot be read")),
            store => u64::from(store == Store::Bad),
        };
        self.proven_here = differences == 0;
        self.full_restores += 1;
        let tree = |(index, tree): (usize, &String)| TreeReport {
            tree: tree.clone(),
            manifest: manifest_id(index as u64 + 1),
            entries: 10,
            bytes: 100,
            differences: if index == 0 { differences } else { 0 },
            lines: vec![],
        };
        Ok(RestoreReport { trees: plan.trees.iter().enumerate().map(tree).collect(), ended: self.clock })
    }

    fn sample_backup(&mut self, plan: &Plan, _: &BackupProof) -> Result<SampleFacts> {
        self.tick()?;
        if self.world.store == Store::Unreadable {
            return Err(Trouble::new("the store cannot be read"));
        }
        self.proven_here = self.world.store == Store::Good;
        let tree = |(index, tree): (usize, &String)| TreeProof {
            tree: tree.clone(),
            manifest: manifest_id(index as u64 + 1),
        };
        Ok(SampleFacts {
            now: self.clock,
            trees: plan.trees.iter().enumerate().map(tree).collect(),
            read: 2,
            differing: u64::from(self.world.store == Store::Bad),
        })
    }

    fn rehearsal(&mut self, plan: &Plan) -> Result<RehearsalFacts> {
        self.tick()?;
        let failed =
            if self.world.rehearsals == Rehearsals::Failed { vec!["it does".into()] } else { vec![] };
        let state = if self.world.rehearsals == Rehearsals::Stale { "before" } else { "now" };
        let proof = RehearsalProof {
            id: "20261126T160000Z-4f2a".into(),
            to: plan.to.codename.clone(),
            package_state: state.into(),
            ended: self.clock,
            outage: 60,
        };
        let decided_by = Some("rules".to_owned());
        let last = LastRehearsal { proof, from: plan.from.codename.clone(), failed, decided_by };
        let last = (self.world.rehearsals != Rehearsals::None).then_some(last);
        let (package_state, decided_by) = ("now".into(), "rules".into());
        Ok(RehearsalFacts { now: self.clock, package_state, decided_by, last })
    }

    fn drain(&mut self, _: &Plan) -> Result<Passage> {
        self.tick()?;
        self.in_traffic = false;
        self.tick()?;
        Ok(Passage::Done { what: "drained".into() })
    }

    fn take_snapshots(&mut self, _: &Plan) -> Result<SnapshotFacts> {
        self.tick()?;
        if !self.names.contains_key(SNAPSHOT) {
            let root = self.named(ROOT)?;
            self.create(SNAPSHOT, &root, true);
        }
        self.tick()?;
        if !self.world.seals {
            return Err(Trouble::new("the snapshot cannot be looked at"));
        }
        Ok(self.snapshot_facts())
    }

    fn inspect_snapshots(&mut self, _: &Plan) -> Result<SnapshotFacts> {
        self.tick()?;
        Ok(self.snapshot_facts())
    }

    fn arm(&mut self, plan: &Plan, snapshot: &SnapshotSet) -> Result<FallbackFacts> {
        self.switch_to_planned_root(plan, false)?;
        self.inspect_fallback(plan, snapshot)
    }

    fn inspect_fallback(&mut self, _: &Plan, _: &SnapshotSet) -> Result<FallbackFacts> {
        self.tick()?;
        let facts = self.switch_facts()?;
        Ok(FallbackFacts {
            promise: planned(&self.world).promise,
            loader_fault: None,
            named: facts.named,
            running: facts.running.uuid,
            resume_enabled: true,
            least: GuaranteeLevel::B,
        })
    }

    fn take_back(&mut self, plan: &Plan, what: Undo) -> Result<()> {
        self.tick()?;
        match what {
            Undo::Disarm => {
                if self.named(ROOT)?.id != plan.root.uuid {
                    self.exchange();
                }
                self.tick()?;
                self.names.remove(CLONE);
            }
            Undo::ReleaseSnapshots => drop(self.names.remove(SNAPSHOT)),
            Undo::Undrain => self.in_traffic = true,
            Undo::Nothing => {}
        }
        self.tick()
    }

    fn upgrade(&mut self, plan: &Plan, _gate: Gate) -> Result<UpgradeFacts> {
        self.tick()?;
        self.upgrades += 1;
        self.proven_at_upgrade = self.proven_here;
        let running = self.running.clone();
        for content in [Content::Half, Content::New] {
            if content == Content::New && !self.world.upgrades {
                break;
            }
            if let Some(volume) = self.names.values_mut().find(|volume| volume.id == running) {
                volume.content = content;
            }
            self.tick()?;
        }
        let failures = if self.world.upgrades { vec![] } else { vec!["a maintainer script failed".into()] };
        Ok(UpgradeFacts {
            reached_end: failures.is_empty(),
            failures,
            release: plan.to.clone(),
            audit: vec![],
            apt_check: None,
            unfinished: vec![],
            pending: vec![],
            prompts: vec![],
            refused_configurations: vec![],
            packages: 300,
        })
    }

    fn prepare_trial(&mut self, plan: &Plan) -> Result<BootFacts> {
        self.trial_again(plan)?;
        self.switch_facts()
    }

    fn trial_again(&mut self, plan: &Plan) -> Result<()> {
        if !plan.promise.method.is_one_shot() {
            return self.switch_to_planned_root(plan, true);
        }
        self.tick()?;
        self.one_shot = true;
        self.tick()
    }

    fn await_confirmation(&mut self, _: &Plan, _: u64) -> Result<Confirmation> {
        self.tick()?;
        Ok(if self.world.confirms { Confirmation::Given } else { Confirmation::Missed })
    }

    fn reboot(&mut self, _: &Plan, _: Destination) -> Result<Infallible> {
        self.on = false;
        Err(Trouble::new("the machine goes down"))
    }

    fn check_health(&mut self, _: &Plan) -> Result<HealthFacts> {
        self.tick()?;
        Ok(self.health(self.world.healthy))
    }

    fn settle_committed(&mut self, plan: &Plan) -> Result<()> {
        self.tick()?;
        self.one_shot = false;
        self.switch_to_planned_root(plan, true)?;
        self.in_traffic = true;
        self.tick()?;
        self.names.remove(CLONE);
        self.tick()
    }

    fn restore(&mut self, plan: &Plan, _: &SnapshotSet) -> Result<RestoredFacts> {
        self.tick()?;
        if !self.world.restores {
            return Err(Trouble::new("the exchange is refused"));
        }
        self.one_shot = false;
        self.switch_to_planned_root(plan, false)?;
        Ok(RestoredFacts { boot: self.switch_facts()?, members: vec![] })
    }

    fn settle_restored(&mut self, _: &Plan) -> HealthFacts {
        self.in_traffic = true;
        self.health(true)
    }
}
