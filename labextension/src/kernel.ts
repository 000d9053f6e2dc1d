/** What lives in the active notebook's kernel: asked without running anything that leaves a trace. */

import type { ISessionContext } from '@jupyterlab/apputils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Debouncer } from '@lumino/polling';
import { type ISignal, Signal } from '@lumino/signaling';

/** A variable that holds a model or data. */
export interface Variable {
  name: string;
  /** "ResNet · 0.31 M · 1.2 MB · cpu", "597 samples". */
  words: string;
}

/** What the kernel answers; made by `quanttaas_jupyter.notebook.variables`. */
export interface Variables {
  models: Variable[];
  data: Variable[];
  functions: string[];
  /** Whether `%quanttaas` is there already. */
  is_loaded: boolean;
}

export interface KernelState {
  /** Why there is nothing to show: no notebook, no kernel, another language, the package is missing. */
  obstacle: 'none' | 'no-notebook' | 'no-kernel' | 'not-python' | 'no-package';
  variables: Variables | null;
  isBusy: boolean;
  /** Milliseconds since the epoch of the last list; 0 before. */
  seen: number;
}

const QUESTION = "__import__('quanttaas_jupyter.notebook.variables', fromlist=['_']).found(get_ipython())";
const QUIET_MILLISECONDS = 250;
const LATE_MILLISECONDS = 1000;
const NOTHING: KernelState = { obstacle: 'no-notebook', variables: null, isBusy: false, seen: 0 };

/** Follows the active notebook's kernel while the panel is shown. */
export class KernelVariables implements IDisposable {
  constructor(private readonly tracker: INotebookTracker) {
    this.asking = new Debouncer(() => this.ask(), QUIET_MILLISECONDS);
    tracker.currentChanged.connect(this.follow, this);
    this.follow();
  }

  get state(): KernelState {
    return this.current;
  }

  get changed(): ISignal<this, KernelState> {
    return this.signal;
  }

  get isDisposed(): boolean {
    return this.asking.isDisposed;
  }

  /** Whether somebody looks: a kernel is not asked for an audience that is not there. */
  set isShown(shown: boolean) {
    this.shown = shown;
    this.refresh();
  }

  refresh(): void {
    if (this.shown && !this.isDisposed) {
      void this.asking.invoke().catch(() => undefined);
    }
  }

  dispose(): void {
    this.tracker.currentChanged.disconnect(this.follow, this);
    this.leave();
    this.asking.dispose();
    Signal.clearData(this);
  }

  private follow(): void {
    const panel = this.tracker.currentWidget;
    if (panel === this.panel) {
      return;
    }
    this.leave();
    this.panel = panel;
    this.tell(panel ? { ...NOTHING, obstacle: 'no-kernel' } : NOTHING);
    panel?.sessionContext.statusChanged.connect(this.onStatus, this);
    panel?.sessionContext.kernelChanged.connect(this.onKernel, this);
    panel?.disposed.connect(this.follow, this);
    this.refresh();
  }

  private leave(): void {
    this.panel?.sessionContext.statusChanged.disconnect(this.onStatus, this);
    this.panel?.sessionContext.kernelChanged.disconnect(this.onKernel, this);
    this.panel?.disposed.disconnect(this.follow, this);
    this.panel = null;
  }

  private onKernel(): void {
    this.tell({ ...NOTHING, obstacle: 'no-kernel' });
    this.refresh();
  }

  private onStatus(_: ISessionContext, status: Kernel.Status): void {
    // Our own question makes the kernel busy and idle, too.
    if (this.isAsking) {
      return;
    }
    if (status === 'busy' || status === 'idle') {
      this.tell({ ...this.current, isBusy: status === 'busy' });
    }
    if (status === 'idle') {
      this.refresh();
    }
  }

  private async ask(): Promise<void> {
    const panel = this.panel;
    const kernel = panel?.sessionContext.session?.kernel;
    if (!panel || !kernel) {
      return;
    }
    if (kernel.status === 'busy') {
      this.tell({ ...this.current, isBusy: true });
      return;
    }
    const { language_info: language } = await kernel.info;
    if (language.name !== 'python') {
      this.tell({ ...NOTHING, obstacle: 'not-python' });
      return;
    }
    this.isAsking = true;
    // A question that came behind a cell waits for it to end.
    const waiting = setTimeout(() => this.tell({ ...this.current, isBusy: true }), LATE_MILLISECONDS);
    try {
      const answer = await questioned(kernel);
      if (panel === this.panel) {
        const obstacle = answer ? 'none' : 'no-package';
        this.tell({ obstacle, variables: answer, isBusy: false, seen: Date.now() });
      }
    } finally {
      clearTimeout(waiting);
      this.isAsking = false;
    }
  }

  private tell(state: KernelState): void {
    this.current = state;
    this.signal.emit(state);
  }

  private readonly asking: Debouncer;
  private readonly signal = new Signal<this, KernelState>(this);
  private current = NOTHING;
  private panel: NotebookPanel | null = null;
  private shown = false;
  private isAsking = false;
}

interface Shown {
  data?: { 'application/json'?: Variables };
}

/** The variables, or null where the kernel has no package of ours. */
async function questioned(kernel: Kernel.IKernelConnection): Promise<Variables | null> {
  const future = kernel.requestExecute(
    {
      code: '',
      silent: true,
      store_history: false,
      user_expressions: { found: QUESTION },
      stop_on_error: false
    },
    true
  );
  const reply = await future.done;
  if (reply.content.status !== 'ok') {
    return null;
  }
  // The expression gave an object that shows itself as JSON, or an error.
  const found = reply.content.user_expressions['found'] as unknown as Shown;
  return found.data?.['application/json'] ?? null;
}
