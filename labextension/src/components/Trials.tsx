import { type JSX, useMemo, useState } from 'react';

import type { Cell, Column, TrialRow } from '../types';
import { Glyph } from './Glyph';

export interface TrialsProps {
  columns: readonly Column[];
  trials: readonly TrialRow[];
  selected: string;
  onSelect: (name: string) => void;
}

interface Order {
  key: string;
  isDown: boolean;
}

/** The trials as a table: sortable by every column, filtered by runtime and precision. */
export function Trials({ columns, trials, selected, onSelect }: TrialsProps): JSX.Element {
  const [order, setOrder] = useState<Order | null>(null);
  const [runtime, setRuntime] = useState('');
  const [precision, setPrecision] = useState('');
  const shown = useMemo(
    () =>
      sorted(
        trials.filter(
          trial => (!runtime || trial.runtime === runtime) && (!precision || trial.precision === precision)
        ),
        order
      ),
    [trials, order, runtime, precision]
  );

  return (
    <section className="qt-trials" aria-label="trials">
      <div className="qt-line">
        <Filter
          label="Runtime"
          values={trials.map(trial => trial.runtime)}
          value={runtime}
          onChange={setRuntime}
        />
        <Filter
          label="Precision"
          values={trials.map(trial => trial.precision)}
          value={precision}
          onChange={setPrecision}
        />
      </div>
      <table>
        <thead>
          <tr>
            {columns.map(column => (
              <Head key={column.key} column={column} order={order} onOrder={setOrder} />
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map(trial => (
            <Row
              key={trial.name}
              trial={trial}
              columns={columns}
              isSelected={trial.name === selected}
              onSelect={onSelect}
            />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Row({
  trial,
  columns,
  isSelected,
  onSelect
}: {
  trial: TrialRow;
  columns: readonly Column[];
  isSelected: boolean;
  onSelect: (name: string) => void;
}): JSX.Element {
  const kinds = [`qt-is-${trial.status}`, trial.is_recommended && 'qt-recommended'];
  return (
    <tr className={kinds.filter(Boolean).join(' ')} aria-selected={isSelected}>
      {columns.map((column, index) => {
        const cell = trial.cells[column.key] ?? NOTHING;
        if (index === 0) {
          return (
            <th key={column.key} scope="row">
              <button
                type="button"
                className="qt-link"
                onClick={() => onSelect(isSelected ? '' : trial.name)}
              >
                <Glyph marker={trial.marker} color={trial.color} /> {cell.text}
              </button>
            </th>
          );
        }
        return (
          <td key={column.key} className={column.is_number ? 'qt-number' : ''} title={cell.extra}>
            {cell.text}
          </td>
        );
      })}
    </tr>
  );
}

function Head({
  column,
  order,
  onOrder
}: {
  column: Column;
  order: Order | null;
  onOrder: (order: Order | null) => void;
}): JSX.Element {
  const isOrdered = order?.key === column.key;
  const direction = !isOrdered ? 'none' : order.isDown ? 'descending' : 'ascending';
  // A third click gives the study's own order back.
  const next = !isOrdered
    ? { key: column.key, isDown: false }
    : order.isDown
      ? null
      : { ...order, isDown: true };
  return (
    <th scope="col" aria-sort={direction} className={column.is_number ? 'qt-number' : ''}>
      <button type="button" className="qt-link" onClick={() => onOrder(next)}>
        {column.title}
        <span aria-hidden="true">{direction === 'none' ? '' : order?.isDown ? ' ↓' : ' ↑'}</span>
      </button>
    </th>
  );
}

function Filter({
  label,
  values,
  value,
  onChange
}: {
  label: string;
  values: readonly string[];
  value: string;
  onChange: (value: string) => void;
}): JSX.Element | null {
  const known = [...new Set(values)];
  if (known.length < 2) {
    return null;
  }
  return (
    <label>
      {label}{' '}
      <select value={value} onChange={event => onChange(event.target.value)}>
        <option value="">all</option>
        {known.map(name => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

const NOTHING: Cell = { text: '', extra: '', sort: null };

function sorted(trials: TrialRow[], order: Order | null): TrialRow[] {
  if (!order) {
    return trials;
  }
  const sign = order.isDown ? -1 : 1;
  return [...trials].sort((a, b) => {
    const [one, other] = [a, b].map(trial => trial.cells[order.key]?.sort ?? null);
    if (one === other) {
      return 0;
    }
    // What is not known stands at the end, whichever way.
    if (one === null || one === undefined) {
      return 1;
    }
    if (other === null || other === undefined) {
      return -1;
    }
    return sign * (one < other ? -1 : 1);
  });
}
