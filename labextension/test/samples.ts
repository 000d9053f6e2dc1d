/** Answers of the server, as short as they can be. */

import type { Chart, ClusterLine, Form, Point, Service, StudyLine, StudyPage, TrialRow } from '../src/types';

export function point(name: string, x: number, y: number): Point {
  const facts = `${name}\naccuracy ${y} %`;
  return {
    name,
    x,
    y,
    low: y - 1,
    high: y + 1,
    color: '#E69F00',
    marker: 'circle',
    uncertain: false,
    is_best: false,
    facts
  };
}

export function chart(points: Point[] = []): Chart {
  return {
    axis: 'size',
    log: true,
    points,
    stairs: points.map(({ x, y }) => [x, y]),
    preview: null,
    preview_label: '',
    baseline: 99,
    baseline_label: 'baseline 99.0 %',
    goal: 98,
    goal_label: 'goal: at most 1 point lost',
    x_range: [4, 6],
    y_range: [90, 100],
    x_ticks: [[5, '100 KB']],
    y_ticks: [[95, '95']],
    x_label: 'file size, log scale',
    y_label: 'accuracy, %',
    better: 'better: up, left',
    is_empty: points.length === 0,
    legend: [{ kind: 'color', value: '#E69F00', words: 'int8' }]
  };
}

export function trial(name: string, values: Partial<TrialRow> = {}, size: number | null = null): TrialRow {
  return {
    name,
    status: 'finished',
    runtime: 'onnxruntime',
    precision: 'int8',
    color: '#E69F00',
    marker: 'circle',
    words: `${name} in words`,
    is_recommended: false,
    cells: {
      trial: { text: name, extra: '', sort: name },
      size: { text: size === null ? '' : `${size} KB`, extra: '', sort: size }
    },
    facts: [['size', '180 KB', '6.9x smaller']],
    remarks: [],
    error: '',
    file: `${name}.onnx`,
    ...values
  };
}

export const COLUMNS = [
  { key: 'trial', title: 'trial', is_number: false },
  { key: 'size', title: 'size', is_number: true }
];

export function page(values: Partial<StudyPage> = {}): StudyPage {
  return {
    store: '/studies',
    id: '7f3a',
    name: 'digits',
    status: 'running',
    seq: 12,
    understanding: 'classification, 10 classes · accuracy',
    heading: 'study 7f3a · running on this machine',
    notices: [],
    progress: { parts: [{ kind: 'done', percent: 50 }], percent: 50, words: ['2 of 4 trials', '1 running'] },
    chart: chart([point('baseline', 6, 99), point('int8', 5, 98.5)]),
    columns: COLUMNS,
    trials: [trial('baseline', { precision: 'none' }, 1200), trial('int8', {}, 300)],
    log: [
      { clock: '12:04:30', text: 'int8: quantizing', level: 'info' },
      { clock: '12:04:31', text: 'int8: measuring', level: 'info' }
    ],
    notes: [],
    can: { cancel: true, resume: false, delete: false },
    ...values
  };
}

export function study(values: Partial<StudyLine> = {}): StudyLine {
  return {
    store: '/studies',
    id: '7f3a',
    name: 'digits',
    model: 'ResNet',
    cluster: 'local',
    status: 'running',
    progress: 0.5,
    words: '2 of 4 trials',
    best: '3.1x smaller',
    frontier: [
      [0, 0.5],
      [1, 1]
    ],
    can: { cancel: true, resume: false, delete: false },
    ...values
  };
}

export function cluster(values: Partial<ClusterLine> = {}): ClusterLine {
  return {
    name: 'local',
    title: 'this machine',
    state: 'idle',
    words: '2 cores, idle',
    trouble: '',
    can_start: false,
    can_stop: false,
    ...values
  };
}

export const FORM: Form = {
  model: 'model',
  data: 'test_loader',
  train: 'train_loader',
  calibration: '',
  metric: '',
  task: '',
  labels: '',
  output: '',
  batch_dim: null,
  ignore_label: null,
  postprocess: '',
  method: 'structured',
  amounts: [0, 0.5],
  quantize: ['none', 'int8'],
  runtime: ['onnxruntime'],
  recover: 'distill',
  minimize: 'size',
  max_drop: 0.01,
  search: 'grid',
  cluster: 'local',
  store: '',
  name: '',
  out: 'study'
};

export const SERVICE: Service = {
  version: '0.1.0',
  stores: ['/studies'],
  clusters: [
    { name: 'local', title: 'this machine' },
    { name: 'l4', title: 'l4' }
  ],
  can_run: true,
  why_not: '',
  form: {
    quantizations: [
      { name: 'none', help: '', runtimes: ['onnxruntime', 'tensorrt'] },
      { name: 'fp16', help: '', runtimes: ['onnxruntime', 'tensorrt'] },
      { name: 'int8', help: '', runtimes: ['onnxruntime', 'tensorrt'] },
      { name: 'fp8', help: '', runtimes: ['tensorrt'] }
    ],
    methods: [
      { name: 'structured', help: '', has_amounts: true },
      { name: '2:4', help: '', has_amounts: false }
    ],
    runtimes: [
      { name: 'onnxruntime', help: '' },
      { name: 'tensorrt', help: '' }
    ],
    searches: [
      { name: 'auto', help: 'sensitivity first' },
      { name: 'grid', help: 'all combinations' }
    ],
    recoveries: [{ name: 'distill', help: '' }],
    metrics: ['accuracy'],
    tasks: [
      { name: 'classification', help: '' },
      { name: 'regression', help: '' }
    ],
    minimize: [
      { name: 'size', help: '' },
      { name: 'latency', help: '' }
    ],
    start: FORM
  }
};
