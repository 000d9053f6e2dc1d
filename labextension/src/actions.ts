/** What buttons and commands do: to studies, to clusters, to the notebook. */

import { Clipboard, Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';

import { type Api, ApiError, type StudyKey } from './api';
import { insert } from './cells';
import type { KernelVariables } from './kernel';

/** A study as far as buttons need it. */
export type StudyName = StudyKey & { name: string };

export interface StudyActions {
  open: (study: StudyName) => void;
  cancel: (study: StudyName) => void;
  resume: (study: StudyName) => void;
  attach: (study: StudyName) => void;
  load: (study: StudyName, trial: string) => void;
  remove: (study: StudyName) => void;
}

export interface ClusterActions {
  start: () => void;
  stop: (name: string) => void;
  /** Rejects with what is wrong. */
  connect: (values: { name: string; address: string; token_file: string; store: string }) => Promise<void>;
  insertTemplate: (kind: string) => void;
}

export interface ActionsOptions {
  api: Api;
  tracker: INotebookTracker;
  kernel: KernelVariables;
  open: (study: StudyName) => void;
  /** Close its page, if it is open. */
  close: (study: StudyName) => void;
  /** Something changed on the server: ask it now. */
  refresh: () => void;
}

export class Actions implements StudyActions, ClusterActions {
  constructor(private readonly options: ActionsOptions) {}

  readonly open = (study: StudyName): void => this.options.open(study);

  readonly cancel = (study: StudyName): void => {
    void this.told(this.cancelled(study));
  };

  readonly resume = (study: StudyName): void => {
    void this.told(this.resumed(study));
  };

  readonly attach = (study: StudyName): void => {
    void this.told(this.inserted(study));
  };

  readonly load = (study: StudyName, trial: string): void => {
    void this.told(this.inserted(study, trial));
  };

  readonly remove = (study: StudyName): void => {
    void this.told(this.removed(study));
  };

  readonly start = (): void => {
    void this.told(this.started());
  };

  readonly stop = (name: string): void => {
    void this.told(this.stopped(name));
  };

  readonly connect: ClusterActions['connect'] = async values => {
    await this.options.api.connectCluster(values);
    this.options.refresh();
  };

  readonly insertTemplate = (kind: string): void => {
    void this.told(this.templated(kind));
  };

  /** Put code below the active cell; where no notebook is open it goes to the clipboard. */
  readonly insert = async (code: string, run: boolean): Promise<void> => {
    const { tracker, kernel } = this.options;
    const { obstacle, variables } = kernel.state;
    const needsLoading = variables?.is_loaded !== true;
    if (obstacle === 'not-python' || !(await insert(tracker, code, { needsLoading, run }))) {
      Clipboard.copyToSystem(code);
      const why = obstacle === 'not-python' ? 'This notebook is not Python' : 'No notebook is open';
      Notification.info(`${why}: the code is on the clipboard.`, { autoClose: 4000 });
    }
  };

  private async cancelled(study: StudyName): Promise<string> {
    await this.options.api.cancel(study);
    return `Cancelling ${study.name || study.id}.`;
  }

  private async resumed(study: StudyName, trusted = false): Promise<string> {
    try {
      await this.options.api.resume(study, trusted);
    } catch (error) {
      const refusal = error instanceof ApiError ? error.refusal : null;
      if (refusal?.needs_trust) {
        const isTrusted = await agreed(
          'Resume the study of somebody else?',
          refusal.message,
          'Trust and resume'
        );
        return isTrusted ? this.resumed(study, true) : '';
      }
      if (refusal?.insert) {
        if (await agreed('Resume it from the notebook?', refusal.message, 'Insert the cell')) {
          await this.insert(refusal.insert, false);
        }
        return '';
      }
      throw error;
    }
    return `Resuming ${study.name || study.id}.`;
  }

  private async removed(study: StudyName): Promise<string> {
    const weight = await this.options.api.weight(study);
    const name = study.name || study.id;
    if (!(await agreed(`Delete ${name}?`, weight.words, 'Delete', true))) {
      return '';
    }
    const freed = await this.options.api.remove(study);
    this.options.close(study);
    return `Deleted: ${freed.words}`;
  }

  /** The server writes the cell: names of trials and stores come from other people. */
  private async inserted(study: StudyKey, trial = ''): Promise<string> {
    await this.insert((await this.options.api.cell(study, trial)).cell, true);
    return '';
  }

  private async started(): Promise<string> {
    await this.options.api.startCluster();
    return 'The Ray cluster of this machine runs.';
  }

  /** The cell is not run: a person fills in project, zone and bucket first. */
  private async templated(kind: string): Promise<string> {
    await this.insert((await this.options.api.template(kind)).cell, false);
    return 'Put your project, zone and bucket into the cell, then run it.';
  }

  private async stopped(name: string): Promise<string> {
    const text = 'Studies that run there are interrupted; they can be resumed.';
    if (!(await agreed(`Stop ${name}?`, text, 'Stop', true))) {
      return '';
    }
    await this.options.api.stopCluster(name);
    return `Stopped ${name}.`;
  }

  /** Say what came of it, and ask the server for the news; work that was given up says nothing. */
  private async told(work: Promise<string>): Promise<void> {
    try {
      const sentence = await work;
      if (sentence) {
        Notification.success(sentence, { autoClose: 4000 });
      }
    } catch (error) {
      Notification.error((error as Error).message, { autoClose: false });
    }
    this.options.refresh();
  }
}

async function agreed(title: string, body: string, label: string, isDanger = false): Promise<boolean> {
  const button = isDanger ? Dialog.warnButton({ label }) : Dialog.okButton({ label });
  const answer = await showDialog({ title, body, buttons: [Dialog.cancelButton(), button] });
  return answer.button.accept;
}
