//! The words and braces of GRUB's script language.

use super::MenuError;

/// One word; `fixed` when no variable is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) fixed: bool,
}

/// One command with its words, the name first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) line: usize,
    pub(super) words: Vec<Word>,
}

/// A menu entry as it stands in the text.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) line: usize,
    pub(super) head: Vec<Word>,
    pub(super) body: Vec<String>,
    pub(super) commands: Vec<Command>,
}

impl Command {
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    pub(super) fn error(&self, problem: &str) -> MenuError {
        MenuError { line: self.line, problem: problem.to_owned() }
    }
}

/// What stands between braces.
#[derive(Debug)]
struct Block {
    head: Command,
    /// Where its text begins.
    start: usize,
    commands: Vec<Command>,
}

/// All menu entries of a text, in the order in which they begin.
pub(super) fn entries(text: &str) -> Result<Vec<Found>, MenuError> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut open: Vec<Block> = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    let mut words: Vec<Word> = Vec::new();
    let mut line = 1;
    while let Some((begins, token)) = lexer.next()? {
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    line = begins;
                }
                // What follows these is a command of its own.
                if !(words.is_empty() && matches!(word.text.as_str(), "then" | "else" | "do" | "{")) {
                    words.push(word);
                }
            }
            Token::End => end(&mut open, line, &mut words),
            Token::Open => {
                let head = Command { line, words: std::mem::take(&mut words) };
                open.push(Block { head, start: lexer.at, commands: Vec::new() });
            }
            Token::Close => {
                end(&mut open, line, &mut words);
                let Some(block) = open.pop() else {
                    return Err(MenuError { line: begins, problem: "a brace that closes nothing".into() });
                };
                if block.head.name() == "menuentry" {
                    let body = lines(&text[block.start..lexer.at - 1]);
                    let Block { head, commands, .. } = block;
                    found.push(Found { line: head.line, head: head.words, body, commands });
                }
            }
        }
    }
    match open.pop() {
        Some(block) => Err(block.head.error("the brace is never closed")),
        None => Ok(found),
    }
}

/// Ends a command; it belongs to the innermost block.
fn end(open: &mut [Block], line: usize, words: &mut Vec<Word>) {
    if words.is_empty() {
        return;
    }
    let command = Command { line, words: std::mem::take(words) };
    if let Some(block) = open.last_mut() {
        block.commands.push(command);
    }
}

fn lines(body: &str) -> Vec<String> {
    let joined = body.replace("\\\n", "");
    joined.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

enum Token {
    Word(Word),
    /// The end of a command.
    End,
    Open,
    Close,
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// The next token and the line on which it begins.
    fn next(&mut self) -> Result<Option<(usize, Token)>, MenuError> {
        loop {
            let line = self.line;
            match self.peek() {
                None => return Ok(None),
                Some(' ' | '\t' | '\r') => drop(self.take()),
                Some('\\') if self.text[self.at..].starts_with("\\\n") => {
                    self.take();
                    self.take();
                }
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.take();
                    }
                }
                Some(c @ ('\n' | ';' | '{' | '}' | '|' | '&' | '<' | '>')) => {
                    self.take();
                    let token = match c {
                        '{' => Token::Open,
                        '}' => Token::Close,
                        _ => Token::End,
                    };
                    return Ok(Some((line, token)));
                }
                Some(_) => return Ok(Some((line, Token::Word(self.word()?)))),
            }
        }
    }

    fn word(&mut self) -> Result<Word, MenuError> {
        let mut word = Word { text: String::new(), fixed: true };
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '{' | '}' | '|' | '&' | '<' | '>' => break,
                '\'' => self.literal(&mut word)?,
                '"' => self.quoted(&mut word)?,
                '$' => self.variable(&mut word),
                '\\' => {
                    self.take();
                    match self.take() {
                        Some('\n') | None => {}
                        Some(escaped) => word.text.push(escaped),
                    }
                }
                _ => {
                    self.take();
                    word.text.push(c);
                }
            }
        }
        Ok(word)
    }

    fn literal(&mut self, word: &mut Word) -> Result<(), MenuError> {
        let line = self.line;
        self.take();
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(c) => word.text.push(c),
                None => return Err(open_quote(line)),
            }
        }
    }

    fn quoted(&mut self, word: &mut Word) -> Result<(), MenuError> {
        let line = self.line;
        self.take();
        loop {
            match self.peek() {
                Some('$') => self.variable(word),
                Some('"') => {
                    self.take();
                    return Ok(());
                }
                Some('\\') => {
                    self.take();
                    match self.take() {
                        Some(c @ ('"' | '\\' | '$')) => word.text.push(c),
                        Some('\n') => {}
                        Some(c) => word.text.extend(['\\', c]),
                        None => return Err(open_quote(line)),
                    }
                }
                Some(c) => {
                    self.take();
                    word.text.push(c);
                }
                None => return Err(open_quote(line)),
            }
        }
    }

    /// Takes `$name` or `${name}` as it stands: its value is not known here.
    fn variable(&mut self, word: &mut Word) {
        word.fixed = false;
        word.text.extend(self.take());
        let braced = self.peek() == Some('{');
        if braced {
            word.text.extend(self.take());
        }
        while let Some(c) = self.peek() {
            let named = c.is_ascii_alphanumeric() || matches!(c, '_' | '?' | '@' | '*' | '#');
            if braced && c == '}' {
                word.text.extend(self.take());
                return;
            }
            if !named {
                return;
            }
            word.text.extend(self.take());
        }
    }
}

fn open_quote(line: usize) -> MenuError {
    MenuError { line, problem: "the quote is never closed".into() }
}
