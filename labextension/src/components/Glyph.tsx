import type { JSX } from 'react';

import type { Marker } from '../types';

const PATHS: Record<Marker, string> = {
  circle: 'M4.2 0A4.2 4.2 0 1 1-4.2 0 4.2 4.2 0 1 1 4.2 0Z',
  square: 'M-3.8-3.8H3.8V3.8H-3.8Z',
  diamond: 'M0-5.2 4.6 0 0 5.2-4.6 0Z',
  'triangle-up': 'M0-4.6 5 4.4H-5Z',
  'triangle-down': 'M0 4.6-5-4.4H5Z',
  cross: 'M-1.6-5h3.2v3.4H5v3.2H1.6V5h-3.2V1.6H-5v-3.2h3.4Z'
};

/** The outline of a marker around the origin, as an SVG path. */
export function outline(marker: Marker): string {
  return PATHS[marker];
}

/** A marker as it stands on the chart. */
export function Glyph({ marker, color }: { marker: Marker; color: string }): JSX.Element {
  return (
    <svg className="qt-glyph" width="12" height="12" viewBox="-6 -6 12 12" aria-hidden="true">
      <path d={outline(marker)} fill={color} />
    </svg>
  );
}
