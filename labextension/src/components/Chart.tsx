import { type JSX, useRef } from 'react';

import { useWidth } from '../hooks';
import type { Chart as Scene, Point } from '../types';
import { outline } from './Glyph';

const HEIGHT = 320;
const EDGES = { left: 46, right: 14, top: 12, bottom: 30 };

export interface ChartProps {
  scene: Scene;
  selected: string;
  onSelect: (name: string) => void;
}

/** The trade-off of accuracy against size or latency; every trial is reached by mouse and by arrow keys. */
export function Chart({ scene, selected, onSelect }: ChartProps): JSX.Element {
  const [box, width] = useWidth<HTMLDivElement>();
  return (
    <div ref={box} className="qt-chart">
      <div className="qt-over">
        <span>{scene.y_label}</span>
        <span className="qt-better">{scene.better}</span>
      </div>
      {scene.is_empty ? (
        <p className="qt-dim">Points appear as trials are measured.</p>
      ) : (
        width > 0 && <Plot scene={scene} width={width} selected={selected} onSelect={onSelect} />
      )}
    </div>
  );
}

function Plot({ scene, width, selected, onSelect }: ChartProps & { width: number }): JSX.Element {
  const svg = useRef<SVGSVGElement>(null);
  const x = scale(scene.x_range, [EDGES.left, width - EDGES.right]);
  const y = scale(scene.y_range, [HEIGHT - EDGES.bottom, EDGES.top]);
  const ordered = [...scene.points].sort((a, b) => a.x - b.x);
  // One stop for the Tab key: arrows go from point to point.
  const stop = ordered.some(point => point.name === selected) ? selected : ordered[0]?.name;

  const onKeyDown = (event: React.KeyboardEvent, index: number): void => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const next = step === undefined ? undefined : ordered[index + step];
    if (next) {
      event.preventDefault();
      onSelect(next.name);
      svg.current?.querySelector<SVGElement>(`[data-trial="${CSS.escape(next.name)}"]`)?.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      onSelect(ordered[index]?.name ?? '');
    } else if (event.key === 'Escape') {
      onSelect('');
    }
  };

  return (
    <svg
      ref={svg}
      width={width}
      height={HEIGHT}
      role="group"
      aria-label={`${scene.y_label} against ${scene.x_label}`}
    >
      <Axes scene={scene} x={x} y={y} width={width} />
      <Levels scene={scene} x={x} y={y} width={width} />
      {ordered.map((point, index) => (
        <Mark
          key={point.name}
          point={point}
          place={[x(point.x), y(point.y)]}
          ends={point.low === null || point.high === null ? null : [y(point.low), y(point.high)]}
          isSelected={point.name === selected}
          isStop={point.name === stop}
          onClick={() => onSelect(point.name === selected ? '' : point.name)}
          onKeyDown={event => onKeyDown(event, index)}
        />
      ))}
    </svg>
  );
}

type Scale = (value: number) => number;

function scale([from, to]: [number, number], [low, high]: [number, number]): Scale {
  return value => low + ((value - from) / (to - from || 1)) * (high - low);
}

interface Frame {
  scene: Scene;
  x: Scale;
  y: Scale;
  width: number;
}

function Axes({ scene, x, y, width }: Frame): JSX.Element {
  const bottom = HEIGHT - EDGES.bottom;
  return (
    <g className="qt-axes" aria-hidden="true">
      {scene.y_ticks.map(([at, words]) => (
        <g key={at}>
          <line x1={EDGES.left} x2={width - EDGES.right} y1={y(at)} y2={y(at)} />
          <text x={EDGES.left - 6} y={y(at)} dy="0.32em" textAnchor="end">
            {words}
          </text>
        </g>
      ))}
      {scene.x_ticks.map(([at, words]) => (
        <text key={at} x={x(at)} y={bottom + 14} textAnchor="middle">
          {words}
        </text>
      ))}
      <text className="qt-axis-name" x={width - EDGES.right} y={HEIGHT - 3} textAnchor="end">
        {scene.x_label}
      </text>
    </g>
  );
}

function Levels({ scene, x, y, width }: Frame): JSX.Element {
  const levels = [
    { kind: 'baseline', at: scene.baseline, words: scene.baseline_label },
    { kind: 'goal', at: scene.goal, words: scene.goal_label }
  ];
  const path = scene.stairs.map(([px, py], index) => `${index ? 'L' : 'M'}${x(px)} ${y(py)}`).join('');
  return (
    <g aria-hidden="true">
      {levels.map(
        ({ kind, at, words }) =>
          at !== null && (
            <g key={kind} className={`qt-level qt-level-${kind}`}>
              <line x1={EDGES.left} x2={width - EDGES.right} y1={y(at)} y2={y(at)} />
              <text
                x={width - EDGES.right}
                y={y(at)}
                dy={kind === 'goal' ? '1.1em' : '-0.4em'}
                textAnchor="end"
              >
                {words}
              </text>
            </g>
          )
      )}
      <path className="qt-stairs" d={path} />
      {scene.preview && (
        <path
          className="qt-preview"
          d={outline('circle')}
          transform={`translate(${x(scene.preview[0])} ${y(scene.preview[1])})`}
        >
          <title>{scene.preview_label}</title>
        </path>
      )}
    </g>
  );
}

interface MarkProps {
  point: Point;
  place: [number, number];
  ends: [number, number] | null;
  isSelected: boolean;
  isStop: boolean;
  onClick: () => void;
  onKeyDown: (event: React.KeyboardEvent) => void;
}

function Mark({
  point,
  place: [x, y],
  ends,
  isSelected,
  isStop,
  onClick,
  onKeyDown
}: MarkProps): JSX.Element {
  const kinds = ['qt-point', point.is_best && 'qt-best', isSelected && 'qt-selected'];
  return (
    <g
      className={kinds.filter(Boolean).join(' ')}
      role="button"
      aria-pressed={isSelected}
      aria-label={point.facts.replace(/\n/g, ', ')}
      data-trial={point.name}
      tabIndex={isStop ? 0 : -1}
      onClick={onClick}
      onKeyDown={onKeyDown}
    >
      <title>{point.facts}</title>
      {ends && <line className="qt-whisker" x1={x} x2={x} y1={ends[0]} y2={ends[1]} stroke={point.color} />}
      {point.uncertain && <circle className="qt-ring" cx={x} cy={y} r="8" />}
      <circle className="qt-target" cx={x} cy={y} r="12" />
      <path d={outline(point.marker)} fill={point.color} transform={`translate(${x} ${y})`} />
    </g>
  );
}
