//! The live view: the picture redrawn on the terminal's other screen until a key ends it.

use super::{Watched, model, render};
use anyhow::Result;
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyModifiers},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use std::{io::Write, time::Duration};

/// Time between pictures.
const REDRAW: Duration = Duration::from_millis(100);
/// Lines above the rows, and below them.
const FRAME: (usize, usize) = (3, 2);

/// Gives the terminal back whatever happens.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        terminal::enable_raw_mode()?;
        execute!(std::io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that refuses.
        let _ = execute!(std::io::stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Draws until `q`, Esc or Ctrl-C.
pub(super) async fn run(w: &Watched) -> Result<()> {
    let _screen = Screen::enter()?;
    let mut page = 0;
    loop {
        let lines = render::lines(&model::summary(w), render::Style::Colour);
        let pages = draw(&lines, &mut page)?;
        tokio::time::sleep(REDRAW).await;
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else { continue };
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(());
                }
                KeyCode::Right => page = (page + 1).min(pages - 1),
                KeyCode::Left => page = page.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// Draws one page; returns how many there are.
fn draw(lines: &[String], page: &mut usize) -> Result<usize> {
    let (_, height) = terminal::size()?;
    let room = usize::from(height).saturating_sub(FRAME.0 + FRAME.1).max(1);
    let (head, rows) = lines.split_at(FRAME.0.min(lines.len()));
    let pages = rows.len().div_ceil(room).max(1);
    *page = (*page).min(pages - 1);
    let mut out = std::io::stdout().lock();
    queue!(out, MoveTo(0, 0))?;
    let shown = rows.iter().skip(*page * room).take(room);
    for line in head.iter().chain(shown) {
        queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
    }
    queue!(out, Clear(ClearType::FromCursorDown), MoveTo(0, height.saturating_sub(1)))?;
    let dots: String = (0..pages).map(|p| if p == *page { '●' } else { '○' }).collect();
    let dots = if pages > 1 { format!("{dots}  ") } else { String::new() };
    queue!(out, Print(format!("{dots}←/→ page • q: quit")), Clear(ClearType::UntilNewLine))?;
    out.flush()?;
    Ok(pages)
}
