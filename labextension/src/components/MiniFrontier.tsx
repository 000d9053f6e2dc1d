import type { JSX } from 'react';

const WIDTH = 56;
const HEIGHT = 18;
const EDGE = 2;

/** The frontier of a study in the size of a word; better is left and up. */
export function MiniFrontier({ points }: { points: readonly [number, number][] }): JSX.Element | null {
  if (points.length === 0) {
    return null;
  }
  const places = points.map(([x, y]) => [
    EDGE + x * (WIDTH - 2 * EDGE),
    HEIGHT - EDGE - y * (HEIGHT - 2 * EDGE)
  ]);
  return (
    <svg className="qt-mini" width={WIDTH} height={HEIGHT} aria-hidden="true">
      <polyline points={places.map(place => place.join(',')).join(' ')} />
      {places.map(([x, y]) => (
        <circle key={`${x} ${y}`} cx={x} cy={y} r="1.6" />
      ))}
    </svg>
  );
}
