/**
 * What the server says. Numbers, words, colours and places are made in Python (`quanttaas_jupyter/server`): the panel
 * draws what it gets.
 */

/** A place where studies live, and what the server can do. */
export interface Service {
  version: string;
  /** Stores that may be asked for, the default one first. */
  stores: string[];
  /** Clusters that a study may run on, the default one first. */
  clusters: ClusterName[];
  /** Whether the server's environment can run an engine; `why_not` says what is missing. */
  can_run: boolean;
  why_not: string;
  form: FormOptions;
}

export interface ClusterName {
  name: string;
  /** What people call it: "this machine". */
  title: string;
}

/** What the form of a recipe offers. */
export interface FormOptions {
  quantizations: Quantization[];
  methods: Method[];
  runtimes: Choice[];
  searches: Choice[];
  recoveries: Choice[];
  metrics: string[];
  tasks: Choice[];
  minimize: Choice[];
  /** What the form holds at first. */
  start: Form;
}

export interface Choice {
  name: string;
  /** One line: what it does. */
  help: string;
}

export interface Method extends Choice {
  /** Whether a person says how much goes. */
  has_amounts: boolean;
}

export interface Quantization extends Choice {
  /** Runtimes that it is built for. */
  runtimes: string[];
}

/** The form of a recipe; names are variables of the notebook, an empty one was left out. */
export interface Form {
  model: string;
  data: string;
  train: string;
  calibration: string;
  metric: string;
  /** What the model does, and which parts of a batch are targets; empty where that is to be found out. */
  task: string;
  labels: string;
  output: string;
  batch_dim: number | null;
  ignore_label: number | null;
  postprocess: string;
  method: string;
  /** Shares of the parameters removed, 0 to below 1. */
  amounts: number[];
  quantize: string[];
  runtime: string[];
  recover: string;
  minimize: string;
  /** In the metric's own unit; null where the field holds no number. */
  max_drop: number | null;
  search: string;
  cluster: string;
  store: string;
  name: string;
  out: string;
}

/** What a form comes to. */
export interface Checked {
  ok: boolean;
  /** Sentences, by the field of the form that they are about. */
  problems: { field: string; text: string }[];
  /** The whole cell, `%%quanttaas ...`; empty where the form is wrong. */
  cell: string;
}

/** What a form would do. */
export interface Planned {
  trials: string[];
  stages: number;
  /** "12 trials, 7 stages". */
  words: string;
  /** What to know beside, such as that a search proposes more. */
  notes: string[];
}

export type Status =
  'queued' | 'running' | 'finished' | 'cancelled' | 'failed' | 'interrupted' | 'unreadable';

/** What may be done to a study. */
export interface Actions {
  cancel: boolean;
  resume: boolean;
  delete: boolean;
}

/** One line in the list of studies. */
export interface StudyLine {
  store: string;
  id: string;
  name: string;
  model: string;
  cluster: string;
  status: Status;
  /** Share done, 0 to 1. */
  progress: number;
  /** "14 of 21 trials, 1 failed", "finished 4 min ago". */
  words: string;
  /** What it found so far: "8.1x smaller"; empty before. */
  best: string;
  /** The frontier in a square of side 1: x is the size, y the metric, better is left and up. */
  frontier: [number, number][];
  can: Actions;
}

export interface StudyList {
  studies: StudyLine[];
  /** Sentences about stores that did not answer. */
  silent: string[];
}

export type NoticeKind = 'verdict' | 'calm' | 'warn' | 'bad';

export interface Notice {
  kind: NoticeKind;
  text: string;
}

/** A bar of several parts, and its words. */
export interface Progress {
  /** Percent of the bar, by kind: done, cut, half (latency is missing), bad. */
  parts: { kind: string; percent: number }[];
  percent: number;
  words: string[];
}

export type Marker = 'circle' | 'square' | 'diamond' | 'triangle-up' | 'triangle-down' | 'cross';

export interface Point {
  name: string;
  x: number;
  y: number;
  low: number | null;
  high: number | null;
  color: string;
  marker: Marker;
  uncertain: boolean;
  /** Whether it is on the frontier, whose intervals are always drawn. */
  is_best: boolean;
  /** What hovering says, a line a fact. */
  facts: string;
}

/** A chart in plot coordinates: on a logarithmic axis x is the decimal logarithm. */
export interface Chart {
  axis: 'size' | 'latency';
  log: boolean;
  points: Point[];
  /** The frontier as a staircase. */
  stairs: [number, number][];
  preview: [number, number] | null;
  preview_label: string;
  baseline: number | null;
  baseline_label: string;
  goal: number | null;
  goal_label: string;
  x_range: [number, number];
  y_range: [number, number];
  x_ticks: [number, string][];
  y_ticks: [number, string][];
  x_label: string;
  y_label: string;
  better: string;
  is_empty: boolean;
  /** Colours, markers and marks that occur, with their words. */
  legend: Key[];
}

export interface Key {
  kind: 'color' | 'marker' | 'uncertain' | 'preview' | 'frontier' | 'interval';
  value: string;
  words: string;
}

/** A cell of the table: its text, and what to sort it by. */
export interface Cell {
  text: string;
  extra: string;
  sort: number | string | null;
}

export interface Column {
  key: string;
  title: string;
  is_number: boolean;
}

export interface TrialRow {
  name: string;
  status: string;
  runtime: string;
  precision: string;
  color: string;
  marker: Marker;
  /** The configuration in words. */
  words: string;
  is_recommended: boolean;
  /** By the key of a column. */
  cells: Record<string, Cell>;
  /** Label, number, what stands beside it. */
  facts: [string, string, string][];
  /** Sentences below the facts: layers, choices, warnings. */
  remarks: Notice[];
  /** Why it failed and what to try; empty otherwise. */
  error: string;
  /** The file's name; empty where there is none. */
  file: string;
}

export interface LogLine {
  /** "12:04:31". */
  clock: string;
  text: string;
  level: 'info' | 'warning' | 'error';
}

/** Everything a study's page draws. */
export interface StudyPage {
  store: string;
  id: string;
  name: string;
  status: Status;
  seq: number;
  /** "study 7f3a · ResNet · running on this machine (2 slots)". */
  heading: string;
  /** What the study understood: task, classes, metric, what is out of the ordinary; empty for older studies. */
  understanding: string;
  notices: Notice[];
  progress: Progress;
  chart: Chart;
  columns: Column[];
  trials: TrialRow[];
  log: LogLine[];
  notes: string[];
  can: Actions;
}

/** How much a study weighs. */
export interface Weight {
  bytes: number;
  words: string;
}

/** One line in the list of clusters. */
export interface ClusterLine {
  name: string;
  /** "this machine", or its own name. */
  title: string;
  state: 'idle' | 'busy' | 'up' | 'unreachable' | 'stopped';
  /** "2 cores, idle", "1 node, 8 CPUs, 0 GPUs · $0.19/h". */
  words: string;
  /** A sentence where it is out of reach; empty otherwise. */
  trouble: string;
  can_start: boolean;
  can_stop: boolean;
}

export interface ClusterList {
  clusters: ClusterLine[];
  templates: Choice[];
}

/** What is wrong, and what to do: the body of every answer that is no success. */
export interface Refusal {
  message: string;
  /** Code that does it in the notebook instead; empty where there is none. */
  insert: string;
  /** Whether asking again with `trusted` would do it. */
  needs_trust: boolean;
}
