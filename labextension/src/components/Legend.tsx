import type { JSX } from 'react';

import type { Key, Marker } from '../types';
import { Glyph } from './Glyph';

/** The colours, markers and marks that occur on the chart. */
export function Legend({ keys }: { keys: readonly Key[] }): JSX.Element {
  return (
    <ul className="qt-legend" aria-label="legend">
      {keys.map(key => (
        <li key={`${key.kind} ${key.value}`}>
          <Sign kind={key.kind} value={key.value} />
          {key.words}
        </li>
      ))}
    </ul>
  );
}

function Sign({ kind, value }: Pick<Key, 'kind' | 'value'>): JSX.Element {
  switch (kind) {
    case 'color':
      return <Glyph marker="circle" color={value} />;
    case 'marker':
      return <Glyph marker={value as Marker} color="currentColor" />;
    default:
      return <i className={`qt-sign qt-sign-${kind}`} aria-hidden="true" />;
  }
}
