//! The query protocol's forms and answers: lists become numbered parameters, answers are XML whose lists
//! are elements `item`.

use crate::client::error;
use coracle_clouds::CloudError;
use roxmltree::{Document, Node};

/// Parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(pub(crate) Vec<(String, String)>);

impl Form {
    /// Adds a parameter.
    pub(crate) fn put(&mut self, name: impl Into<String>, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }

    /// Adds a parameter, if there is a value.
    pub(crate) fn put_some(&mut self, name: impl Into<String>, value: Option<impl ToString>) {
        if let Some(v) = value {
            self.put(name, v);
        }
    }

    /// Adds the filter number `n`, from 1.
    pub(crate) fn filter(&mut self, n: usize, name: &str, values: &[&str]) {
        self.put(format!("Filter.{n}.Name"), name);
        for (i, v) in values.iter().enumerate() {
            self.put(format!("Filter.{n}.Value.{}", i + 1), v);
        }
    }

    /// The same request for another page.
    pub(crate) fn page(&self, token: &str) -> Self {
        let mut own = self.clone();
        own.put("NextToken", token);
        own
    }
}

/// Reads an answer.
pub(crate) fn parse<'b>(doing: &str, body: &'b str) -> Result<Document<'b>, CloudError> {
    Document::parse(body).map_err(|e| error(doing, "BadAnswer", &e.to_string()))
}

/// A child by its name.
pub(crate) fn child<'a, 'b>(n: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    n.children().find(|c| c.tag_name().name() == name)
}

/// The text below a path such as `state/name`; empty for none.
pub(crate) fn text<'a>(n: Node<'a, '_>, path: &str) -> &'a str {
    let end = path.split('/').try_fold(n, child);
    end.and_then(|e| e.text()).unwrap_or_default().trim()
}

/// The same as a number; 0 for none.
pub(crate) fn number(n: Node<'_, '_>, path: &str) -> f64 {
    text(n, path).parse().unwrap_or(0.0)
}

/// The items of a list below a path.
pub(crate) fn items<'a, 'b>(n: Node<'a, 'b>, path: &str) -> impl Iterator<Item = Node<'a, 'b>> {
    let list = path.split('/').try_fold(n, child);
    list.into_iter().flat_map(|l| l.children().filter(|c| c.tag_name().name() == "item"))
}

/// The value of a tag.
pub(crate) fn tag<'a>(n: Node<'a, '_>, key: &str) -> &'a str {
    items(n, "tagSet").find(|t| text(*t, "key") == key).map_or("", |t| text(t, "value"))
}
