//! What a run will read, found out before it reads anything: one to seven readings of the manifest and the ledger.

use std::collections::HashSet;

use super::book::{Book, BookError};
use super::budget::{Budget, Clock, Seed};
use super::ledger::{OpenRun, mark_of};
use super::select::{Choice, Extremes, Ranking, Waves, last_key};
use crate::manifest::Entry;
use crate::manifest::coverage::Amount;

/// What is read, and in which order.
#[derive(Debug)]
pub(super) struct Plan {
    /// When the run began, in seconds since 1970.
    pub(super) now: i64,
    /// Content of the manifest.
    pub(super) total: Amount,
    /// What is to be read, that of an earlier part of the same run included.
    pub(super) chosen: Amount,
    /// What an earlier part of the same run has read and proven.
    pub(super) resumed: Amount,
    pub(super) remarks: Vec<String>,
    /// What chance goes by.
    pub(super) seed: u64,
    ranking: Ranking,
    /// What was proven before this is due; `None`: all is.
    due: Option<i64>,
    always: HashSet<Vec<u8>>,
    choice: Choice,
    /// The last key of each wave.
    bounds: Vec<u64>,
    /// What a later run has to know to go on with this one; `None`: the oldest come first anyway.
    run: Option<OpenRun>,
    /// The run goes on with one that began earlier.
    goes_on: bool,
}

/// A run that is older than this is not gone on with, in seconds: its proofs would be called "read now".
const OPEN_RUN: i64 = 7 * 86_400;

/// A proof is renewed from this part of the allowed age on, so that it does not become overdue right after a run.
const RENEWED_AT: (u64, u64) = (9, 10);

/// A clock that is behind by more than this is worth a word, in seconds.
const NOTICED: i64 = 3600;

impl Plan {
    /// Reads the manifest and the ledger to their ends, so both are known to be whole when this returns.
    pub(super) fn make(book: &Book, budget: &Budget, clock: &Clock<'_>) -> Result<Self, BookError> {
        let now = clock.now();
        let renewed =
            |age: u64| (u128::from(age) * u128::from(RENEWED_AT.0) / u128::from(RENEWED_AT.1)) as u64;
        let due = budget.max_age.map(|age| now.saturating_sub_unsigned(renewed(age.as_secs())));
        let by_chance = !budget.oldest_first && budget.max_age.is_none();
        let (Seed::Given(seed) | Seed::Fresh(seed)) = budget.seed;
        let mut plan = Self {
            now,
            total: Amount::default(),
            chosen: Amount::default(),
            resumed: Amount::default(),
            remarks: Vec::new(),
            seed,
            ranking: Ranking::new(seed, !by_chance),
            due,
            always: HashSet::new(),
            choice: Choice::All,
            bounds: vec![u64::MAX],
            run: None,
            goes_on: false,
        };
        let in_waves = budget.max_duration.is_some();
        let (id, extremes) = plan.survey(book, by_chance && budget.sample.is_some(), in_waves)?;
        if by_chance {
            plan.go_on(book, budget, &id)?;
        }
        plan.notice_clock(book)?;
        // Otherwise what is due is all that is chosen, and was counted.
        if budget.sample.is_some() || plan.goes_on {
            plan.ranking = Ranking::new(plan.seed, !by_chance);
            plan.choose(book, budget, extremes)?;
            plan.count(book, in_waves)?;
        }
        Ok(plan)
    }

    /// How many waves there are.
    pub(super) fn waves(&self) -> usize {
        self.bounds.len()
    }

    /// In which wave a file is read; `None`: in none.
    pub(super) fn wave_of(&self, entry: &Entry, proven: Option<i64>) -> Option<usize> {
        if self.is_done(proven) || !self.is_due(proven) {
            return None;
        }
        if self.always.contains(&entry.path) {
            return Some(0);
        }
        let key = self.ranking.key(&entry.path, proven);
        self.choice.has(key).then(|| self.bounds.partition_point(|last| *last < key))
    }

    /// What a later run has to know to go on with this one.
    pub(super) fn open_run(&self) -> Option<OpenRun> {
        self.run
    }

    fn is_due(&self, proven: Option<i64>) -> bool {
        match (self.due, proven) {
            (Some(due), Some(proven)) => proven < due,
            _ => true,
        }
    }

    fn is_done(&self, proven: Option<i64>) -> bool {
        let began = self.run.filter(|_| self.goes_on).map(|run| run.began);
        began.is_some_and(|began| proven.is_some_and(|at| at >= began))
    }

    /// Counts everything and what is due, finds the largest and the newest, and tells the manifest's id.
    fn survey(
        &mut self,
        book: &Book,
        with_extremes: bool,
        in_waves: bool,
    ) -> Result<(String, Option<Extremes>), BookError> {
        let mut files = book.candidates(self.now)?;
        let mut extremes = with_extremes.then(Extremes::default);
        let mut waves = in_waves.then(Waves::default);
        while let Some((entry, _, proven)) = files.next()? {
            self.total.add(entry.bytes());
            if let Some(extremes) = &mut extremes {
                extremes.see(&entry);
            }
            if self.is_due(proven) {
                self.chosen.add(entry.bytes());
                if let Some(waves) = &mut waves {
                    waves.add(self.ranking.key(&entry.path, proven), entry.bytes());
                }
            }
        }
        self.bounds = bounds(waves);
        let id = files.summary().map_or_else(String::new, |summary| summary.id.to_string());
        Ok((id, extremes))
    }

    fn choose(&mut self, book: &Book, budget: &Budget, extremes: Option<Extremes>) -> Result<(), BookError> {
        let Some(sample) = budget.sample else { return Ok(()) };
        let mut limit = sample.of(self.total.files);
        if let Some(extremes) = extremes {
            let (always, amount) = extremes.within(limit);
            self.always = always;
            limit = limit.less(amount);
        }
        let choice = last_key(limit, |see| {
            let mut files = book.candidates(self.now)?;
            while let Some((entry, _, proven)) = files.next()? {
                if self.is_due(proven) && !self.always.contains(&entry.path) {
                    see(self.ranking.key(&entry.path, proven), entry.bytes());
                }
            }
            Ok::<_, BookError>(())
        })?;
        self.choice = choice;
        Ok(())
    }

    /// Finds out whether this is the rest of a run that asked for the same of the same manifest and was not ended.
    fn go_on(&mut self, book: &Book, budget: &Budget, id: &str) -> Result<(), BookError> {
        let sample = budget.sample.map_or_else(String::new, |sample| sample.to_string());
        let asked = mark_of(blake3::hash(format!("{id} {sample}").as_bytes()).as_bytes());
        self.run = Some(OpenRun { asked, seed: self.seed, began: self.now });
        let Some(opening) = book.before()? else { return Ok(()) };
        let by_my_seed = |run: &OpenRun| match budget.seed {
            // All there is can be chosen by any seed.
            Seed::Given(seed) => budget.sample.is_none() || seed == run.seed,
            Seed::Fresh(_) => true,
        };
        let is_mine = |run: &OpenRun| run.asked == asked && by_my_seed(run);
        let Some(run) = opening.open_run.filter(is_mine) else { return Ok(()) };
        // Where the clock was put back, times in the ledger are earlier now by as much.
        let began = run.began.saturating_sub(opening.saved.saturating_sub(self.now).max(0));
        let ago = self.now.saturating_sub(began);
        if ago <= OPEN_RUN {
            self.run = Some(OpenRun { began, ..run });
            self.seed = run.seed;
            self.goes_on = true;
            self.remarks
                .push(format!("goes on with a verification that began {ago} seconds ago and was not ended"));
        }
        Ok(())
    }

    fn notice_clock(&mut self, book: &Book) -> Result<(), BookError> {
        let Some(opening) = book.before()? else { return Ok(()) };
        let behind = opening.saved.saturating_sub(self.now);
        if behind > NOTICED {
            self.remarks.push(format!(
                "the clock is {behind} seconds behind the last run; proofs are taken for as old as they were then"
            ));
        }
        Ok(())
    }

    /// Counts what is chosen, and parts it into waves.
    fn count(&mut self, book: &Book, in_waves: bool) -> Result<(), BookError> {
        let (mut chosen, mut resumed) = (Amount::default(), Amount::default());
        let mut waves = in_waves.then(Waves::default);
        let mut files = book.candidates(self.now)?;
        while let Some((entry, _, proven)) = files.next()? {
            let key = self.ranking.key(&entry.path, proven);
            if !self.is_due(proven) || !(self.choice.has(key) || self.always.contains(&entry.path)) {
                continue;
            }
            chosen.add(entry.bytes());
            if self.is_done(proven) {
                resumed.add(entry.bytes());
            } else if let Some(waves) = &mut waves {
                waves.add(key, entry.bytes());
            }
        }
        (self.chosen, self.resumed) = (chosen, resumed);
        self.bounds = bounds(waves);
        Ok(())
    }
}

/// Without waves there is one.
fn bounds(waves: Option<Waves>) -> Vec<u64> {
    waves.map_or_else(|| vec![u64::MAX], |waves| waves.bounds())
}
