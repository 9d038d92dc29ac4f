//! What was typed, and what is shown. No decisions.
