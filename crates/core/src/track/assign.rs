//! Who gets what: pairs of least cost, where not everyone may be paired with everyone.

/// Groups up to this many on a side are solved exactly, larger ones greedily: the cheapest first.
const EXACT: usize = 32;

/// A pair that may be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Edge {
    pub(super) row: usize,
    pub(super) column: usize,
    /// 0..=1, where 1 is as bad as no pair.
    pub(super) cost: f64,
}

/// Pairs of which each row and each column has at most one, of least cost in all.
pub(super) fn assign(rows: usize, columns: usize, mut edges: Vec<Edge>) -> Vec<(usize, usize)> {
    edges.sort_unstable_by(|a, b| {
        a.cost.total_cmp(&b.cost).then((a.row, a.column).cmp(&(b.row, b.column)))
    });
    // Edges that share no row and no column, even by way of others, are problems of their own.
    let mut group: Vec<usize> = (0..rows + columns).collect();
    for edge in &edges {
        let (a, b) = (root(&mut group, edge.row), root(&mut group, rows + edge.column));
        group[a.max(b)] = a.min(b);
    }
    let mut parts: Vec<(usize, usize)> =
        edges.iter().enumerate().map(|(at, edge)| (root(&mut group, edge.row), at)).collect();
    parts.sort_unstable();
    let mut pairs = Vec::new();
    for part in parts.chunk_by(|a, b| a.0 == b.0) {
        let part: Vec<Edge> = part.iter().map(|&(_, at)| edges[at]).collect();
        if part.len() == 1 {
            pairs.push((part[0].row, part[0].column));
            continue;
        }
        let names = |name: fn(&Edge) -> usize| {
            let mut names: Vec<usize> = part.iter().map(name).collect();
            names.sort_unstable();
            names.dedup();
            names
        };
        let (rows, columns) = (names(|edge| edge.row), names(|edge| edge.column));
        if rows.len().max(columns.len()) <= EXACT {
            exact(&part, &rows, &columns, &mut pairs);
        } else {
            greedy(&part, &mut pairs);
        }
    }
    pairs.sort_unstable();
    pairs
}

fn root(group: &mut [usize], mut at: usize) -> usize {
    while group[at] != at {
        group[at] = group[group[at]];
        at = group[at];
    }
    at
}

fn greedy(edges: &[Edge], pairs: &mut Vec<(usize, usize)>) {
    let mut rows = std::collections::BTreeSet::new();
    let mut columns = std::collections::BTreeSet::new();
    for edge in edges {
        if !rows.contains(&edge.row) && !columns.contains(&edge.column) {
            rows.insert(edge.row);
            columns.insert(edge.column);
            pairs.push((edge.row, edge.column));
        }
    }
}

/// The Hungarian method with potentials; `rows` and `columns` are sorted.
fn exact(edges: &[Edge], rows: &[usize], columns: &[usize], pairs: &mut Vec<(usize, usize)>) {
    let side = rows.len().max(columns.len());
    let place = |names: &[usize], name: usize| names.partition_point(|&other| other < name);
    let mut cost = vec![1.0; side * side];
    let mut allowed = vec![false; side * side];
    for edge in edges {
        let at = place(rows, edge.row) * side + place(columns, edge.column);
        cost[at] = edge.cost;
        allowed[at] = true;
    }
    // Row and column 0 are none; the rest is shifted by one.
    let mut row_price = vec![0.0; side + 1];
    let mut column_price = vec![0.0; side + 1];
    let mut owner = vec![0; side + 1];
    for row in 1..=side {
        let mut from = vec![0; side + 1];
        let mut slack = vec![f64::INFINITY; side + 1];
        let mut done = vec![false; side + 1];
        owner[0] = row;
        let mut column = 0;
        while owner[column] != 0 {
            done[column] = true;
            let (mut least, mut next) = (f64::INFINITY, 0);
            for other in 1..=side {
                if done[other] {
                    continue;
                }
                let at = (owner[column] - 1) * side + other - 1;
                let reduced = cost[at] - row_price[owner[column]] - column_price[other];
                if reduced < slack[other] {
                    slack[other] = reduced;
                    from[other] = column;
                }
                if slack[other] < least {
                    least = slack[other];
                    next = other;
                }
            }
            for other in 0..=side {
                if done[other] {
                    row_price[owner[other]] += least;
                    column_price[other] -= least;
                } else {
                    slack[other] -= least;
                }
            }
            column = next;
        }
        while column != 0 {
            owner[column] = owner[from[column]];
            column = from[column];
        }
    }
    for column in 1..=side {
        let at = (owner[column] - 1) * side + column - 1;
        if allowed[at] {
            pairs.push((rows[owner[column] - 1], columns[column - 1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edges(costs: &[(usize, usize, f64)]) -> Vec<Edge> {
        costs.iter().map(|&(row, column, cost)| Edge { row, column, cost }).collect()
    }

    #[test]
    fn the_sum_counts_and_not_the_cheapest_pair() {
        let costs = edges(&[(0, 0, 0.1), (0, 1, 0.2), (1, 0, 0.15), (1, 1, 0.9)]);
        assert_eq!(assign(2, 2, costs), [(0, 1), (1, 0)]);
    }

    #[test]
    fn a_pair_that_is_hardly_allowed_does_not_break_a_good_one() {
        let costs = edges(&[(0, 0, 0.01), (0, 1, 0.95), (1, 0, 0.5)]);
        assert_eq!(assign(2, 2, costs), [(0, 0)]);
    }

    /// Least cost over all ways to pair rows from `row` on with columns that are free.
    fn least(costs: &[Vec<Option<f64>>], row: usize, taken: u32) -> f64 {
        let Some(row_costs) = costs.get(row) else { return 0.0 };
        let mut best = 1.0 + least(costs, row + 1, taken);
        for (column, cost) in row_costs.iter().enumerate() {
            if let Some(cost) = cost.filter(|_| taken & (1 << column) == 0) {
                best = best.min(cost + least(costs, row + 1, taken | 1 << column));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn no_other_pairs_cost_less(
            costs in (1usize..6, 1usize..6).prop_flat_map(|(rows, columns)| {
                let cost = prop_oneof![Just(None), (0.0..1.0f64).prop_map(Some)];
                prop::collection::vec(prop::collection::vec(cost, columns), rows)
            })
        ) {
            let mut all = Vec::new();
            for (row, row_costs) in costs.iter().enumerate() {
                for (column, cost) in row_costs.iter().enumerate() {
                    all.extend(cost.map(|cost| Edge { row, column, cost }));
                }
            }
            let pairs = assign(costs.len(), costs[0].len(), all);
            let mut sum = 0.0;
            let mut taken = 0u32;
            for (at, &(row, column)) in pairs.iter().enumerate() {
                prop_assert!(at == 0 || pairs[at - 1].0 < row);
                prop_assert!(taken & (1 << column) == 0);
                taken |= 1 << column;
                sum += costs[row][column].expect("only allowed pairs");
            }
            for _ in pairs.len()..costs.len() {
                sum += 1.0;
            }
            prop_assert!((sum - least(&costs, 0, 0)).abs() < 1e-9, "{} {}", sum, least(&costs, 0, 0));
        }
    }
}
