/** The commands of palette, menu and toolbar. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker } from '@jupyterlab/notebook';

import type { Actions, StudyName } from './actions';
import { icon } from './icon';
import type { QuantPanel } from './panel';

export const ids = {
  openPanel: 'quanttaas:open-panel',
  openStudy: 'quanttaas:open-study',
  refresh: 'quanttaas:refresh',
  startCluster: 'quanttaas:start-cluster',
  insertTemplate: 'quanttaas:insert-template'
};

export interface CommandsOptions {
  panel: QuantPanel;
  actions: Actions;
  tracker: INotebookTracker;
  open: (study: StudyName) => void;
  refresh: () => void;
}

export function addCommands(app: JupyterFrontEnd, options: CommandsOptions): void {
  const { panel, actions, tracker, open, refresh } = options;
  const { commands } = app;
  commands.addCommand(ids.openPanel, {
    label: args => (args['toolbar'] ? '' : 'Compress a Model'),
    caption: 'Open the side panel of QuantTaaS',
    icon,
    execute: () => app.shell.activateById(panel.id)
  });
  commands.addCommand(ids.openStudy, {
    label: 'Open a Study',
    execute: args => {
      const { id, store = '', name = '' } = args as Partial<StudyName>;
      if (id) {
        open({ id, store, name });
      }
    }
  });
  commands.addCommand(ids.refresh, {
    label: 'Refresh Studies and Clusters',
    execute: refresh
  });
  commands.addCommand(ids.startCluster, {
    label: 'Start the Ray Cluster of This Machine',
    execute: () => actions.start()
  });
  commands.addCommand(ids.insertTemplate, {
    label: 'Insert the Template of a Cluster on Google Cloud',
    isEnabled: () => tracker.currentWidget !== null,
    execute: () => actions.insertTemplate('gce')
  });
}
